"""What a builder timed, kept for the next build: one file for each TensorRT, GPU and driver, shared by a store."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tasks.core.digests import canonical, sha256_text
from tasks.core.files import write_atomically
from tasks.core.frozen import Frozen
from tasks.core.locks import file_lock

# Far above what was seen (one network leaves 0.1 to 2 MB). The library cannot drop single entries, so a file that
# outgrows this is dropped as a whole, and the next build starts cold.
LIMIT_BYTES = 256 * 2**20
_MAGIC = b"trtflow timing cache 1\n"
_DIGEST_BYTES = hashlib.sha256().digest_size


class TimingCacheUse(Frozen):
    """What the cache held before a build and after it; `note` says what was wrong with it."""

    bytes_before: int
    bytes_after: int
    note: str = ""


@dataclass(frozen=True)
class TimingCacheFile:
    """A file with its own digest: what is damaged is never handed to native code."""

    path: Path
    limit_bytes: int = LIMIT_BYTES

    def read(self) -> tuple[bytes, str]:
        """The cache, empty where there is none, and what was wrong with it."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return b"", ""
        except OSError as error:
            return b"", f"the timing cache {self.path.name} cannot be read: {error.strerror}"
        head = len(_MAGIC) + _DIGEST_BYTES
        cache = content[head:]
        if content[:head] != _MAGIC + hashlib.sha256(cache).digest():
            return b"", f"the timing cache {self.path.name} is damaged: it was started afresh"
        return cache, ""

    def merge(self, combine: Callable[[bytes], bytes]) -> tuple[int, str]:
        """Replace the file by what `combine` makes of its present contents; its size, and why it was not written.

        Builds that race come here one after the other, each with what the others have written by then. A cache only
        saves time: that it cannot be written fails no build.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with file_lock(self.path.parent / f".{self.path.stem}.lock", threading.Event()):
                return self._replace(combine(self.read()[0]))
        except OSError as error:
            return 0, f"the timing cache {self.path.name} was not written: {error.strerror}"

    def _replace(self, cache: bytes) -> tuple[int, str]:
        if len(cache) > self.limit_bytes:
            self.path.unlink(missing_ok=True)
            return 0, f"the timing cache outgrew {self.limit_bytes} bytes: it was dropped"
        write_atomically(self.path, _MAGIC + hashlib.sha256(cache).digest() + cache)
        return len(cache), ""


def timing_cache_file(folder: Path, made_by: dict[str, str]) -> TimingCacheFile:
    """The file for one TensorRT, GPU and driver: times of one say nothing about another."""
    return TimingCacheFile(folder / f"{sha256_text(canonical(made_by))[:20]}.cache")
