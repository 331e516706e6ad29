"""A path as somebody wrote it. Standard library only: a training job imports this."""

from pathlib import Path

from tasks.core.errors import ConfigError


def absolute_path(text: str, base: Path | None = None) -> Path:
    """The path from /, with `~` read, relative to `base` (default: here); raise ConfigError for what is none."""
    if "\0" in text:
        raise ConfigError(f"{text!r:.99} is no path", "correct it")
    try:
        return ((base or Path.cwd()) / Path(text).expanduser()).absolute()
    except (RuntimeError, ValueError) as error:  # "~name" of a user that is not here
        raise ConfigError(f"{text!r:.99} is no path: {error}", "write it from /") from error
