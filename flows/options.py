"""The options that every command shares, and the files that they lead to."""

import os
import re
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from flows.authority import authority_of
from tasks.core.config import Config, PipelineConfig
from tasks.core.errors import ConfigError, RemoteRefused, StoreError, Where
from tasks.core.paths import absolute_path
from tasks.core.store import Store
from tasks.core.yaml_source import locate

if TYPE_CHECKING:
    from tasks.core.shared import Shared

DEFAULT_FILE = "pipelines.yaml"


@dataclass(frozen=True)
class Options:
    """`file` is the YAML, whose folder is the project; `store` overrides the YAML's, `cache` is for a remote one."""

    file: Path
    store: str | None
    json: bool
    debug: bool
    cache: str | None = None

    @property
    def project(self) -> Path:
        """Folder that relative paths and user modules start from."""
        return self.file.parent


def options_from(arguments: Namespace) -> Options:
    """Read the shared options."""
    return Options(
        file=Path(arguments.file).absolute(),
        store=arguments.store,
        json=arguments.json,
        debug=arguments.debug,
        cache=arguments.cache,
    )


def open_store(options: Options, config: Config, *, signs: bool = False) -> Store:
    """The store that is meant: a folder, or the cache of a URL; raise ConfigError where there can be none.

    A command that `signs` what it puts in force needs the key for it.
    """
    authority = authority_of(config, options, signs=signs)
    named = config.store if options.store is None else options.store
    where = locate(options.file, ["store"]) if options.store is None else Where()
    if not named:
        raise ConfigError("the store has no name", "give a folder, or a URL: s3://bucket/folder, file:///...", where)
    if "\0" in unquote(named):
        raise ConfigError(f"{named!r:.99} is no place for a store", "use a folder, or file:///...", where)
    if "://" in named:
        shared = _shared(named, _cache_folder(options), where)
        return Store(shared.root, options.project, shared=shared, authority=authority)
    base = Path.cwd() if options.store else options.project
    try:
        urlsplit(named)
        root = (base / Path(named).expanduser()).absolute()
    except (ValueError, RuntimeError) as error:  # "//[" is half an address, "~name" a user that is not here
        cure = "use a folder, or file:///..."
        raise ConfigError(f"{named!r:.99} is no place for a store: {error}", cure, where) from error
    return Store(root, options.project, authority=authority)


def _shared(url: str, cache: Path, where: Where) -> "Shared":
    from tasks.core.remote import check_url
    from tasks.core.shared import open_shared

    try:
        check_url(url)
    except StoreError as error:
        raise ConfigError(error.message, error.cure, where) from error
    try:
        return open_shared(url, cache)
    except RemoteRefused as error:  # before any step has run: it is the name or the login that is wrong
        raise ConfigError(error.message, error.cure, where) from error


def _cache_folder(options: Options) -> Path:
    """Where copies of remote stores are kept, a folder for each."""
    named = options.cache or os.environ.get("TRTFLOW_CACHE")
    if named:
        return absolute_path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache").absolute() / "trtflow"


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
    if not options.file.exists():  # an ONNX file was named instead of a pipeline
        cure = f"put it into a pipelines.yaml, which can say so: {error.cure}"
        return ConfigError(error.message, cure, Where(path=error.where.path))
    path = error.where.path.removeprefix(f"pipelines.{pipeline}")
    keys = [int(key) if key.isdigit() else key for key in re.findall(r"[^.\[\]]+", path)]
    return ConfigError(error.message, error.cure, locate(options.file, ["pipelines", pipeline, *keys]))
