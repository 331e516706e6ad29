"""Reading a pipelines.yaml: a Config, or one ConfigError that names every mistake with its line."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import ValidationError

from tasks.core.config import Config
from tasks.core.config_fields import Problem
from tasks.core.errors import ConfigError, Where
from tasks.core.yaml_messages import translate, walk
from tasks.core.yaml_tree import Entry, Unreadable, read_tree

# Whoever makes hundreds of mistakes made one of them hundreds of times.
_MOST_TOLD = 20
_LONGEST_SENTENCE = 600
_LONGEST_KEY = 100


def load_config(path: Path) -> Config:
    """Read and check a whole pipelines.yaml."""
    root = _read(path)
    if not isinstance(root.plain, dict):
        kind = "a list" if isinstance(root.plain, tuple) else "a single value"
        raise ConfigError(
            f"the document is {kind}, expected a mapping",
            "begin with version: 1 and pipelines:",
            Where(str(path), root.line),
        )
    try:
        return Config.model_validate(root.plain, strict=True, by_alias=True, by_name=False)
    except ValidationError as error:
        found = translate(error.errors(include_url=False), root)
    raise config_error(path, found)


def locate(path: Path, keys: Sequence[str | int]) -> Where:
    """Find where the file `path` writes what the keys lead to, or as much of the way there as it writes."""
    try:
        entry, walked = walk(_read(path), keys)
    except ConfigError:  # the file has changed since it was loaded
        return Where(str(path), None, dotted(keys))
    return Where(str(path), entry.line, dotted(walked))


def config_error(path: Path, found: Iterable[tuple[int | None, Problem]]) -> ConfigError:
    """Make one error of several mistakes, in the order of the file; `where` is that of the first."""
    (line, first), *others = sorted(found, key=lambda each: each[0] or 0)
    where = Where(str(path), line, dotted(first.path))
    if not others:
        return ConfigError(_short(first.message), _short(first.cure), where)
    lines = [f"{_sentence(first)}", f"  and {len(others)} more:"]
    lines += [f"  {_place(line, problem)}: {_sentence(problem)}" for line, problem in others[:_MOST_TOLD]]
    lines += [f"  ... and {len(others) - _MOST_TOLD} after these"] if len(others) > _MOST_TOLD else []
    return ConfigError("\n".join(lines), f"correct all {len(others) + 1} places", where)


def dotted(keys: Sequence[str | int]) -> str:
    """Write keys as a path: `pipelines.digits.precisions[1]`."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{_plain(key)}" for key in keys).removeprefix(".")


def _plain(key: str) -> str:
    """A key as it can stand in a line of text."""
    return key if key.isprintable() and len(key) <= _LONGEST_KEY else f"{key[:_LONGEST_KEY]!r}"


def _sentence(problem: Problem) -> str:
    return "; ".join(_short(text) for text in (problem.message, problem.cure) if text)


def _short(text: str) -> str:
    """A sentence that quotes what the file says: its beginning and end, where that is longer than anyone reads."""
    half = _LONGEST_SENTENCE // 2
    return text if len(text) <= _LONGEST_SENTENCE else f"{text[:half]} ... {text[-half:]}"


def _place(line: int | None, problem: Problem) -> str:
    return " ".join(part for part in (f"line {line}" if line else "", dotted(problem.path)) if part)


def _read(path: Path) -> Entry:
    try:
        return read_tree(_text(path))
    except Unreadable as error:
        raise config_error(path, error.problems) from error


def _text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {path}", "pass the path of your pipelines.yaml with -f") from error
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise ConfigError(message, "pass the path of your pipelines.yaml with -f") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"this is not UTF-8: byte 0x{content[error.start]:02x}"
        raise ConfigError(message, "save the file as UTF-8", Where(str(path), line)) from error
