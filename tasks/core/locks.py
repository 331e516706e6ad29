"""Locks between processes that a `kill -9` cannot leave behind: the kernel drops a flock with its holder."""

import contextlib
import fcntl
import functools
import logging
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from tasks.core.errors import ConfigError, StepError
from tasks.core.files import same_file

Mode = Literal["shared", "exclusive"]
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 10.0
log = logging.getLogger(__name__)


def _try_flock(handle: int, mode: Mode) -> bool:
    operation = fcntl.LOCK_SH if mode == "shared" else fcntl.LOCK_EX
    try:
        fcntl.flock(handle, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _acquire(handle: int, mode: Mode, stop: threading.Event) -> None:
    """Wait for the lock by polling: a blocking flock in a thread could not be interrupted."""
    begun = time.monotonic()
    while not _try_flock(handle, mode):
        if stop.wait(_POLL_SECONDS):
            raise StepError("stopped while it waited for another run")
        if time.monotonic() - begun > _PATIENCE_SECONDS:
            begun = math.inf
            for holder in _holders(handle):
                _tell(holder)


@functools.cache
def _tell(holder: int) -> None:
    """Say once that a process is waited for: a run that was stopped by Ctrl-Z would be waited for silently."""
    with contextlib.suppress(OSError):  # it has ended by now
        state = Path(f"/proc/{holder}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        stopped = f", which is stopped: `kill -CONT {holder}` lets it go on" if state == "T" else ""
        log.warning("waiting for process %d, another run of trtflow%s", holder, stopped)


def _holders(handle: int) -> list[int]:
    """Processes that hold the file's lock, as far as this one can see them."""
    inode = os.fstat(handle).st_ino
    try:
        lines = Path("/proc/locks").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    rows = (line.split() for line in lines if " FLOCK " in line and "->" not in line)
    return sorted({int(row[4]) for row in rows if row[5].rpartition(":")[2] == str(inode)} - {0, -1, os.getpid()})


@contextlib.contextmanager
def file_lock(path: Path, stop: threading.Event, mode: Mode = "exclusive") -> Iterator[None]:
    """Hold `path` among processes and threads; the file is there only while somebody holds or awaits it."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            _acquire(handle, mode, stop)
            if not same_file(path, handle):
                continue  # the holder we waited for removed this file: lock the new one
            try:
                yield
            finally:
                if _try_flock(handle, "exclusive"):  # the last to share it removes it
                    path.unlink(missing_ok=True)
            return
        finally:
            os.close(handle)


def try_file_lock(path: Path) -> Callable[[], None] | None:
    """Take `path` if nobody holds it; returns what releases it, or None."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    if not _try_flock(handle, "exclusive") or not same_file(path, handle):
        os.close(handle)
        return None

    def release() -> None:
        path.unlink(missing_ok=True)
        os.close(handle)

    return release


class HostLock:
    """One readers-writer lock for the host: computing steps share it, a CPU benchmark holds it alone.

    Another one stands for its `device`: what runs there shares it, what measures there holds it alone, and the builder
    of an engine measures. Who wants it alone first closes a turnstile, so that it is not starved by those that share.
    """

    def __init__(self, folder: Path | None = None, device: str = "") -> None:
        self._folder = folder or host_folder()
        self._prefix = f"trtflow.{device}." if device else "trtflow."

    @contextlib.contextmanager
    def hold(self, mode: Mode, stop: threading.Event) -> Iterator[None]:
        """Hold the lock for the length of the block."""
        turnstile, lock = self._open("turnstile"), self._open("lock")
        try:
            _acquire(turnstile, mode, stop)
            _acquire(lock, mode, stop)
            fcntl.flock(turnstile, fcntl.LOCK_UN)
            yield
        finally:
            os.close(lock)
            os.close(turnstile)

    def _open(self, name: str) -> int:
        path = self._folder / f"{self._prefix}{name}"
        try:
            # Without O_CREAT: in a sticky folder the kernel refuses it for a file of another user.
            return os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            os.fchmod(handle, 0o666)  # every user of the host shares it, whatever the umask of the first
            return handle


def host_folder() -> Path:
    """Where this host's locks are: TRTFLOW_LOCKS, else the first that can be written.

    A temporary folder comes last, since each run may have its own.
    """
    if named := os.environ.get("TRTFLOW_LOCKS"):
        folder = Path(named).absolute()
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            cure = "name one that every user of this host can write to, or unset it"
            raise ConfigError(f"TRTFLOW_LOCKS: {named!r} is no folder that can be written to", cure)
        return folder
    shared = (Path("/run/lock"), Path("/dev/shm"))  # noqa: S108 - made by the system, sticky, for everyone
    return next((folder for folder in shared if os.access(folder, os.W_OK)), Path(tempfile.gettempdir()))
