"""Writing files so that a reader, or a restart after a kill, sees all of a file or none of it."""

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from tasks.core.errors import StepError, StoreError

_REMOVERS = 8
_COPY_BYTES = 64 << 20
# What says that these two file systems, or this kernel, cannot copy by themselves.
_NO_COPY_RANGE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
_CURES = {
    errno.ENOSPC: "free some space (`trtflow gc` drops what no run or promotion needs), then run again",
    errno.EDQUOT: "raise the quota or free some space (`trtflow gc`), then run again",
    errno.EROFS: "the file system is read-only: choose another place with --store",
    errno.EACCES: "make it writable for this user, or choose another place with --store",
    errno.EPERM: "make it writable for this user, or choose another place with --store",
}


@contextlib.contextmanager
def store_errors(place: Path) -> Iterator[None]:
    """Turn an OSError of the block into a StoreError that says what to do."""
    try:
        yield
    except OSError as error:
        cure = _CURES.get(error.errno or 0, "check that path and its file system")
        raise StoreError(f"cannot write the store at {place}: {error.strerror or error}", cure) from error


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content`: readers see the old content or the new one, also after a power cut."""
    path.parent.mkdir(parents=True, exist_ok=True)
    hidden = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        with _open_locked(hidden) as stream:
            stream.write(content.encode() if isinstance(content, str) else content)
            stream.flush()
            os.fsync(stream.fileno())
            hidden.rename(path)
    finally:
        hidden.unlink(missing_ok=True)
    sync_folder(path.parent)


def _open_locked(hidden: Path) -> BinaryIO:
    """Open a new file and lock it, which says that its writer lives: see `remove_abandoned`."""
    while True:
        stream = hidden.open("wb")
        fcntl.flock(stream, fcntl.LOCK_EX)
        if same_file(hidden, stream.fileno()):
            return stream
        stream.close()  # taken for abandoned, and removed, before it was locked


def same_file(path: Path, handle: int) -> bool:
    """Whether `path` still names the file that was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def remove_abandoned(partial: Path) -> None:
    """Remove a file that `write_atomically` had not finished when its process was killed."""
    with contextlib.suppress(FileNotFoundError, BlockingIOError), partial.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if same_file(partial, stream.fileno()):
            partial.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Make the bytes of `path` survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def need_space(folder: Path, size: int) -> None:
    """Raise OSError when the file system of `folder` cannot hold a file of that size."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        os.posix_fallocate(probe.fileno(), 0, max(size, 1))


def link_or_copy(source: Path, target: Path) -> None:
    """Give `source`, a file of the store that is never written again, a second name."""
    try:
        target.hardlink_to(source)
    except OSError:  # another file system, or one without hard links: a copy serves as well
        shutil.copyfile(source, target)


def remove_trees(folders: Iterable[Path]) -> None:
    """Remove many folders side by side: most of the time goes by waiting for the file system's journal."""
    with ThreadPoolExecutor(_REMOVERS, thread_name_prefix="remove") as pool:
        for _ in pool.map(remove_tree, folders):
            pass


def copy_file(source: Path, target: Path, stop: threading.Event) -> None:
    """Copy a file's bytes, which a file system that can share blocks does not read; a large copy can be stopped."""
    with source.open("rb") as reader, target.open("wb") as writer:
        while not stop.is_set():
            try:
                copied = os.copy_file_range(reader.fileno(), writer.fileno(), _COPY_BYTES)
            except OSError as error:
                if error.errno not in _NO_COPY_RANGE:
                    raise
                copied = os.sendfile(writer.fileno(), reader.fileno(), None, _COPY_BYTES)
            if not copied:
                return
    raise StepError(f"stopped while it copied {source.name}")


def remove_tree(folder: Path) -> None:
    """Remove a folder that readers may see: hide it first, so that nobody sees half of it."""
    hidden = folder.parent / f".{folder.name}.{uuid.uuid4().hex[:8]}.partial"
    try:
        folder.rename(hidden)
    except FileNotFoundError:
        return
    shutil.rmtree(hidden, ignore_errors=True)
