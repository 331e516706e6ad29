"""Which files of artifacts are known to be intact, so that a warm run reads no more than their stat."""

import contextlib
import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path

from tasks.core.digests import fingerprint, sha256_file
from tasks.core.files import link_or_copy, write_atomically
from tasks.core.report import FileRecord

_SIDECAR = ".verified"
_REPORT = "report.json"
# Files whose bytes this process hashed itself: nothing is hashed twice in one run. The change time belongs to it, so
# that a process that lives for many runs sees an edit whose author put the modification time back.
_hashed: dict[tuple[int, ...], str] = {}
_lock = threading.Lock()  # of the memory, and of links that change what it knows files by
_hashing: dict[tuple[int, ...], threading.Lock] = {}  # of files that a thread is reading: another one waits for it


class Verified:
    """Compares files with their reports: by size, time and inode where those are as they were, else by sha256."""

    def __init__(self, root: Path, *, hash_all: bool) -> None:
        self._root = root
        self._hash_all = hash_all

    def remember(self, folder: Path, files: Iterable[FileRecord]) -> None:
        """Note that the files of a folder are intact now, and what its report's own digest is."""
        for record in files:
            known(folder / record.name, record.sha256)
        self._write(folder, [*(record.name for record in files), _REPORT])

    def first_problem(self, folder: Path, files: Iterable[FileRecord]) -> str | None:
        """One plain sentence about the first file that is missing, truncated or edited, or None."""
        marks = _read_marks(folder)
        records = list(files)
        problem = self._report_problem(folder, marks)
        if problem:
            return problem
        stale = [r for r in records if self._hash_all or marks.get(r.name) != _mark(folder / r.name)]
        for record in stale:
            problem = self.problem(folder, record, thorough=True)
            if problem:
                return problem
        if stale and os.access(folder, os.W_OK):
            with contextlib.suppress(OSError):  # a full disk: the files are then hashed again the next time
                self._write(folder, [*(record.name for record in records), _REPORT])
        return None

    def problem(self, folder: Path, record: FileRecord, *, thorough: bool) -> str | None:
        """What is wrong with one file: its size, and its sha256 when `thorough`."""
        path = folder / record.name
        try:
            size = path.stat().st_size
        except OSError:
            return f"{record.name} is missing"
        if size != record.bytes:
            return f"{record.name} has {size} of {record.bytes} bytes"
        try:
            edited = thorough and sha256_once(path) != record.sha256
        except OSError as error:
            return f"{record.name} cannot be read: {error.strerror}"
        return f"{record.name} was edited: its sha256 is not the reported one" if edited else None

    def _report_problem(self, folder: Path, marks: dict[str, list[object]]) -> str | None:
        noted = marks.get(_REPORT)
        if noted is None or (noted == _report_mark(folder)):
            return None
        return f"{_REPORT} was edited" if noted[3:] != _report_mark(folder)[3:] else None

    def _write(self, folder: Path, names: list[str]) -> None:
        marks = {name: _mark(folder / name) for name in names if name != _REPORT}
        marks[_REPORT] = _report_mark(folder)
        write_atomically(folder / _SIDECAR, json.dumps(marks))


def sha256_once(path: Path) -> str:
    """Digest of a file of the store that nobody writes any more; no thread of this process hashes it again."""
    with _lock:
        identity = _identity(path)
        turn = _hashing.setdefault(identity, threading.Lock())
    with turn:
        if identity not in _hashed:
            digest = sha256_file(path)
            with _lock:
                _hashed[identity] = digest
        return _hashed[identity]


def known(path: Path, digest: str) -> None:
    """Note a file's digest that is known without reading it."""
    with _lock:
        _hashed[_identity(path)] = digest


def link(source: Path, target: Path) -> None:
    """Give `source`, a file of the store that was verified just now, a second name; both keep its digest.

    A link changes the change time, by which an edited file is told: so no other thread may look meanwhile.
    """
    with _lock:
        digest = _hashed.get(_identity(source))
        link_or_copy(source, target)
        if digest is not None:
            _hashed[_identity(source)] = _hashed[_identity(target)] = digest


def _identity(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _mark(path: Path) -> list[object] | None:
    try:
        return list(fingerprint(path))
    except OSError:
        return None


def _report_mark(folder: Path) -> list[object]:
    return [*fingerprint(folder / _REPORT), sha256_once(folder / _REPORT)]


def _read_marks(folder: Path) -> dict[str, list[object]]:
    try:
        marks = json.loads((folder / _SIDECAR).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # an artifact that was copied without it: hash the files once
        return {}
    named = marks.items() if isinstance(marks, dict) else ()
    return {name: mark for name, mark in named if isinstance(mark, list)}
