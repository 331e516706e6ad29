"""sha256 of files, each computed once: by process, and across runs for the files that a pipeline is made from."""

import contextlib
import hashlib
import json
import os
import time
from pathlib import Path
from typing import NamedTuple

from tasks.core.files import write_atomically

# A file changed less than this before it was hashed may change again within the same tick of the file
# system's clock, and then looks unchanged (git calls such an entry "racily clean").
_SETTLED_NS = 2_000_000_000


class Fingerprint(NamedTuple):
    """What a stat tells of a file's identity: cheap to read, and different after an ordinary change."""

    size: int
    mtime_ns: int
    inode: int


def fingerprint(path: Path) -> Fingerprint:
    """Read the fingerprint of `path`."""
    status = path.stat()
    return Fingerprint(status.st_size, status.st_mtime_ns, status.st_ino)


def sha256_text(text: str) -> str:
    """Digest of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Digest of a file's bytes, read in chunks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def canonical(value: object) -> str:
    """JSON text that is the same for equal values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


class SourceDigests:
    """Digests of the user's files, remembered beside the store by size, both times and inode.

    The change time is part of the fingerprint because a file put back with its old modification time
    (`cp -p`, `touch -d`) still gets a new one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def sha256(self, path: Path) -> str:
        """Digest of `path`, from the memory where the file is provably the one that was hashed."""
        remembered = self.remembered(path)
        if remembered is not None:
            return remembered
        status = path.stat()
        # Before the file is read: a large one takes longer than it takes to settle.
        settled = time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED_NS
        digest = sha256_file(path)
        if settled and os.access(self._folder.parent, os.W_OK):
            with contextlib.suppress(OSError):  # a full disk: the file is then hashed again the next time
                write_atomically(self._entry(path), json.dumps([_identity(path, status), digest]))
        return digest

    def remembered(self, path: Path) -> str | None:
        """Digest of `path` where the file is provably the one that was hashed, which is not read again."""
        entry = _read_entry(self._entry(path))
        return str(entry[1]) if entry is not None and entry[0] == _identity(path, path.stat()) else None

    def _entry(self, path: Path) -> Path:
        return self._folder / f"{sha256_text(str(path))[:20]}.json"


def _identity(path: Path, status: os.stat_result) -> list[object]:
    return [str(path), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev]


def _read_entry(entry: Path) -> tuple[list[object], str] | None:
    try:
        identity, digest = json.loads(entry.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):  # never hashed, or an entry that cannot be read: hash again
        return None
    return identity, digest
