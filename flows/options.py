"""The options that every command shares, and the files that they lead to."""

import re
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.core.config import Config, PipelineConfig
from tasks.core.errors import ConfigError, Where
from tasks.core.yaml_source import locate


@dataclass(frozen=True)
class Options:
    """`file` is the YAML, whose folder is the project; `store` overrides the YAML's."""

    file: Path
    store: str | None
    json: bool
    debug: bool

    @property
    def project(self) -> Path:
        """Folder that relative paths and user modules start from."""
        return self.file.parent


def options_from(arguments: Namespace) -> Options:
    """Read the shared options."""
    return Options(
        file=Path(arguments.file).absolute(), store=arguments.store, json=arguments.json, debug=arguments.debug
    )


def store_root(options: Options, config: Config) -> Path:
    """Folder of the store; raise ConfigError for a URL that is not supported yet."""
    named = config.store if options.store is None else options.store
    where = locate(options.file, ["store"]) if options.store is None else Where()
    if not named:
        raise ConfigError("the store has no name", "give a folder, or file:///...", where)
    try:
        url, folder = urlsplit(named), Path(named).expanduser()
    except (ValueError, RuntimeError) as error:  # "//[" is half an address, "~name" a user that is not here
        raise ConfigError(
            f"{named!r:.99} is no place for a store: {error}", "use a folder, or file:///...", where
        ) from error
    if "\0" in unquote(named):
        raise ConfigError(f"{named!r:.99} is no place for a store", "use a folder, or file:///...", where)
    if url.scheme == "file" and not url.netloc:
        return Path(unquote(url.path))
    if "://" in named:
        raise ConfigError(f"a store at {named!r} is known, not yet supported", "use a folder, or file:///...", where)
    base = Path.cwd() if options.store else options.project
    return (base / folder).absolute()


def chosen(config: Config, names: list[str], options: Options) -> dict[str, PipelineConfig]:
    """The pipelines that were named, all by default; raise ConfigError for an unknown name."""
    from tasks.core.config_fields import suggest

    for name in names:
        if name not in config.pipelines:
            cure = suggest(name, sorted(config.pipelines))
            raise ConfigError(f"there is no pipeline {name!r}", cure, locate(options.file, ["pipelines"]))
    return {name: config.pipelines[name] for name in names} if names else dict(config.pipelines)


def placed(error: ConfigError, pipeline: str, options: Options) -> ConfigError:
    """Find the line of the YAML for an error that was found after it was read."""
    path = error.where.path.removeprefix(f"pipelines.{pipeline}")
    keys = [int(key) if key.isdigit() else key for key in re.findall(r"[^.\[\]]+", path)]
    return ConfigError(error.message, error.cure, locate(options.file, ["pipelines", pipeline, *keys]))
