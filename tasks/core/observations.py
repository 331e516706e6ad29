"""Tells whether what user code was seen to depend on is still what it was."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from tasks.core.digests import SourceDigests, sha256_text
from tasks.core.environment import version_of
from tasks.core.frozen import Frozen
from tasks.core.report import Observation


class IndexEntry(Frozen):
    """One line of `index/<lookup>.jsonl`: with these observations, that key."""

    key: str
    observed: tuple[Observation, ...]


_ENTRY = TypeAdapter(IndexEntry)


def read_index(path: Path) -> list[IndexEntry]:
    """Entries of an index, newest first; a line torn by a kill is passed over, which costs one rebuild."""
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    return [entry for line in reversed(lines) if (entry := parse_entry(line)) is not None]


def parse_entry(line: bytes) -> IndexEntry | None:
    """An entry from its JSON, None for what is none."""
    try:
        return _ENTRY.validate_json(line)
    except ValidationError:
        return None


def append_index(path: Path, entry: IndexEntry) -> None:
    """Add an entry with one write, so that a line is whole or torn at its end, never mixed with another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = "\n" + json.dumps(entry.model_dump(mode="json")) + "\n"
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        os.write(handle, line.encode())
        os.fsync(handle)
    finally:
        os.close(handle)


class Observer:
    """Compares observations with the present state of the project's folder and of the installed packages."""

    def __init__(self, project: Path, digests: SourceDigests) -> None:
        self._project = project
        self._digests = digests

    def first_change(self, observed: Iterable[Observation]) -> str | None:
        """One plain sentence about the first observation that no longer holds, or None when all hold."""
        return next((change for seen in observed if (change := self._change(seen)) is not None), None)

    def _change(self, seen: Observation) -> str | None:
        match seen.kind:
            case "package":
                found = version_of(seen.name) or ""
                return None if found == seen.digest else f"{seen.name} {seen.digest} is now {found or 'not installed'}"
            case "absent":
                there = os.path.exists(self._path(seen))  # noqa: PTH110 - no error where it may not be looked for
                return f"{seen.name} is there now" if there else None
            case "listing":
                return None if listing_digest(self._path(seen)) == seen.digest else f"files in {seen.name} changed"
            case "file":
                return self._file_change(seen)

    def _file_change(self, seen: Observation) -> str | None:
        try:
            digest = self._digests.sha256(self._path(seen))
        except (FileNotFoundError, NotADirectoryError):
            return f"{seen.name} is gone"
        except OSError:  # not readable: so it was noted, or it has changed
            digest = ""
        return f"{seen.name} changed" if digest != seen.digest else None

    def _path(self, seen: Observation) -> Path:
        return self._project / seen.name  # an absolute name stays as it is


def listing_digest(folder: Path) -> str:
    """Digest of the sorted names in a folder; empty when it is gone."""
    try:
        names = sorted(name for name in os.listdir(folder) if name != "__pycache__")  # noqa: PTH208 - names, not paths
    except OSError:
        return ""
    return sha256_text("\0".join(names))
