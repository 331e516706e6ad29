"""Content-addressed bytes in a remote store: put once, fetched so that an interruption costs one part."""

import hashlib
import threading
from dataclasses import dataclass, field
from pathlib import Path

from tasks.core.errors import RemoteDamaged, StepError, StoreError
from tasks.core.remote import Remote
from tasks.core.report import FileRecord

_PART = 16 * 2**20
FOLDER = "blobs"


def blob_name(sha256: str) -> str:
    """Where the bytes with that digest lie."""
    return f"{FOLDER}/{sha256[:2]}/{sha256}"


@dataclass(frozen=True)
class Blobs:
    """The blobs of a remote store. Those that were found damaged are written anew when they are next put."""

    remote: Remote
    stop: threading.Event
    _damaged: set[str] = field(default_factory=set)

    def put(self, path: Path, record: FileRecord) -> bool:
        """Upload a file unless its bytes are there; returns whether it was uploaded."""
        name = blob_name(record.sha256)
        if record.sha256 not in self._damaged and self.remote.size(name) == record.bytes:
            return False
        self._check_stop()
        self.remote.upload(path, name)
        written = self.remote.size(name)
        if written != record.bytes:
            raise StoreError(f"{record.name}: {written} of {record.bytes} bytes arrived", "run again")
        self._damaged.discard(record.sha256)
        return True

    def fetch(self, record: FileRecord, path: Path) -> None:
        """Download to `path`, on from what is there already of it; raise RemoteDamaged for what has another digest."""
        resumed = path.exists()
        if not self._complete(record, path) and not (resumed and self._again(record, path)):
            self._damaged.add(record.sha256)
            raise RemoteDamaged(f"{record.name} is not what its report says", "it is made again")

    def _again(self, record: FileRecord, path: Path) -> bool:
        """Once more from the start: what was there may have been torn by a power cut."""
        path.unlink(missing_ok=True)
        return self._complete(record, path)

    def _complete(self, record: FileRecord, path: Path) -> bool:
        name, digest = blob_name(record.sha256), hashlib.sha256()
        if record.bytes > _PART:
            self._check_size(record, self.remote.size(name))
        with path.open("a+b") as stream:
            stream.seek(0)
            while part := stream.read(_PART):
                digest.update(part)
            while (start := stream.tell()) < record.bytes:
                self._check_stop()
                part = self._part(record, start)
                digest.update(part)
                stream.write(part)
                stream.flush()
        return start == record.bytes and digest.hexdigest() == record.sha256

    def _part(self, record: FileRecord, start: int) -> bytes:
        name, end = blob_name(record.sha256), min(start + _PART, record.bytes)
        if start == 0 and end == record.bytes:
            whole = self.remote.read(name)
            self._check_size(record, None if whole is None else len(whole))
            return whole or b""
        return self.remote.read_part(name, start, end)

    def _check_size(self, record: FileRecord, size: int | None) -> None:
        if size == record.bytes:
            return
        self._damaged.add(record.sha256)
        said = "is missing" if size is None else f"has {size} of {record.bytes} bytes"
        raise RemoteDamaged(f"{record.name} {said}", "it is made again")

    def _check_stop(self) -> None:
        if self.stop.is_set():
            raise StepError("stopped while it copied files from or to the remote store")
