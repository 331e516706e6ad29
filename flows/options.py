"""The options that every command shares, and the files that they lead to."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tasks.core.config import Config, PipelineConfig
from tasks.core.errors import ConfigError, Where


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
    named = options.store or config.store
    url = urlsplit(named)
    if url.scheme == "file" and not url.netloc:
        return Path(unquote(url.path))
    if "://" in named:
        raise ConfigError(
            f"a store at {named!r} is known, not yet supported", "use a folder, or file:///...", Where(path="store")
        )
    base = Path.cwd() if options.store else options.project
    return (base / Path(named).expanduser()).absolute()


def chosen(config: Config, names: list[str]) -> dict[str, PipelineConfig]:
    """The pipelines that were named, all by default; raise ConfigError for an unknown name."""
    from tasks.core.config_fields import suggest

    for name in names:
        if name not in config.pipelines:
            raise ConfigError(
                f"there is no pipeline {name!r}", suggest(name, sorted(config.pipelines)), Where(path="pipelines")
            )
    return {name: config.pipelines[name] for name in names} if names else dict(config.pipelines)
