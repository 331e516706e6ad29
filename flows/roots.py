"""Where a checkpoint that an event names may lie: below the roots that the YAML lists, and nowhere else."""

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flows.events import is_url
from tasks.core.config import Config, OnnxModel
from tasks.core.errors import ConfigError
from tasks.core.paths import absolute_path
from tasks.core.remote_errors import shown, told_url

_LOCAL = re.compile(r"(?:file|local)://")


@dataclass(frozen=True)
class Roots:
    """Folders, with links resolved, and URL prefixes. `base` is where relative paths start."""

    base: Path
    folders: tuple[Path, ...]
    prefixes: tuple[str, ...]

    def refusal(self, what: str) -> ConfigError:
        """The error for a place below none of them."""
        listed = ", ".join([*map(str, self.folders), *map(shown, self.prefixes)])
        cure = "list its folder at the top level of the YAML: checkpoints: [...]"
        if not listed:
            return ConfigError(f"{what}: this pipeline has no root for checkpoints", cure)
        return ConfigError(f"{what} lies below none of the roots {listed}", f"put it below one of them, or {cure}")


def roots_of(config: Config, pipeline: str, project: Path) -> Roots:
    """The roots that the YAML lists; by default, the folder of the pipeline's own checkpoint."""
    model = config.pipelines[pipeline].model
    own = model.onnx if isinstance(model, OnnxModel) else model.checkpoint
    listed = config.checkpoints
    if listed is None:
        listed = () if own is None else (str((project / own).parent),)
    local = [path for text in listed if (path := local_path(text, project)) is not None]
    return Roots(
        project,
        tuple(dict.fromkeys(path.resolve() for path in local)),
        tuple(text.rstrip("/") for text in listed if local_path(text, project) is None),
    )


def local_path(text: str, base: Path) -> Path | None:
    """The path that a text means, as a path or a file:// URL; None for a URL that leads elsewhere."""
    found = _LOCAL.match(text)
    if found is None and is_url(text):
        return None
    plain = text[found.end() :] if found else text
    if found and not plain.startswith("/"):
        raise ConfigError(f"{text!r:.99} names a host", "write file:///FOLDER, with three slashes")
    return absolute_path(plain, base)


def check_url(url: str, roots: Roots | None) -> None:
    """Raise ConfigError for a URL that is not plain, or lies below no root.

    It is compared as text, so whatever a server could take for a step upwards is refused.
    """
    told = told_url(url)
    if "::" in url:
        raise ConfigError(f"{told:.200} is a chain of URLs", "name the file itself")
    try:
        path = unquote(unquote(urlsplit(url).path)) + "/" + unquote(url.partition("://")[2])
    except ValueError as error:
        raise ConfigError(f"{url!r:.99} is no URL: {error}", "correct it") from error
    if {"..", "."} & set(re.split(r"[/\\?#]", path)) or "\\" in path or not path.isprintable():
        raise ConfigError(f"{told:.200} holds '.', '..' or signs that are no plain name", "write the URL without them")
    if roots is not None and not any(url.startswith(f"{prefix}/") for prefix in roots.prefixes):
        raise roots.refusal(told[:200])
