"""What the interpreter itself tells of files that code opens: an audit hook, also in processes that the code forks."""

import importlib.metadata
import importlib.util
import json
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from tasks.core.digests import Fingerprint

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_NOT_READING = os.O_WRONLY | os.O_TRUNC
_IMPORT_SYSTEM = ("<frozen importlib", importlib.metadata.__file__)


class Seen:
    """Paths as the code named them, made absolute at once."""

    def __init__(self) -> None:
        self.files: dict[str, Fingerprint | None] = {}
        self.written: set[str] = set()
        self.folders: set[str] = set()
        self.searched: set[str] = set()
        self._active = True
        self._pid = os.getpid()
        self._told = os.memfd_create("trtflow-seen")

    def file(self, name: object) -> None:
        """Note a file that is read, as it is now; None for one that is not there."""
        path = _absolute(name)
        if path is None or path in self.files:
            return
        try:
            status = os.stat(path)  # noqa: PTH116 - this runs for every file that is opened
        except OSError:
            self._note("files", path, None)
            return
        if stat.S_ISDIR(status.st_mode):
            self._note("folders", path)
        elif stat.S_ISREG(status.st_mode):
            self._note("files", path, Fingerprint(status.st_size, status.st_mtime_ns, status.st_ino))

    def missed(self, name: object, project: Path) -> None:
        """Note a file of the project that was asked for and is not there."""
        path = _absolute(name)
        if path is not None and path not in self.files and Path(path).is_relative_to(project):
            self._note("files", path)

    def stop(self) -> None:
        """See no more, and take over what forked processes saw."""
        self._active = False
        size = os.fstat(self._told).st_size
        for line in os.pread(self._told, size, 0).splitlines():
            kind, path, mark = json.loads(line)
            self._keep(kind, path, Fingerprint(*mark) if mark else None)
        os.close(self._told)

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        """Be told of an event by the interpreter."""
        if not self._active:
            return
        match event:
            case "open":
                self._opened(arguments[0], arguments[2])
            case "os.rename":
                self._wrote(arguments[0])
                self._wrote(arguments[1])
            case "os.remove":
                self._wrote(arguments[0])
            # The import system lists whole folders, and only the modules that it finds there count.
            case "os.listdir" | "os.scandir" if not _by_import():
                path = _absolute(arguments[0] if arguments[0] is not None else ".")
                if path is not None:
                    self._note("folders", path)

    def _opened(self, name: object, flags: object) -> None:
        if not isinstance(flags, int):
            return
        if not flags & _NOT_READING:
            self.file(_source_of(name))
        if flags & _WRITING:
            self._wrote(name)

    def _wrote(self, name: object) -> None:
        path = _absolute(name)
        if path is not None:
            self._note("written", path)

    def _note(self, kind: str, path: str, mark: Fingerprint | None = None) -> None:
        self._keep(kind, path, mark)
        if os.getpid() != self._pid:  # forked by the code, as a loader of batches does: only the first process reports
            with suppress(OSError):  # a process that closed what it inherited
                os.write(self._told, json.dumps([kind, path, mark]).encode() + b"\n")

    def _keep(self, kind: str, path: str, mark: Fingerprint | None) -> None:
        match kind:
            case "files":
                self.files.setdefault(path, mark)
            case "written":
                self.written.add(path)
            case _:
                self.folders.add(path)


def _by_import() -> bool:
    """Whether the import system raised the event: the frames between are this one and the hook."""
    return sys._getframe(2).f_code.co_filename.startswith(_IMPORT_SYSTEM)


def _absolute(name: object) -> str | None:
    if not isinstance(name, str | bytes | os.PathLike):
        return None  # an open file descriptor: whoever opened it was seen
    return os.path.abspath(os.fsdecode(name))  # noqa: PTH100 - resolve() would follow links: the name is what was read


def _source_of(name: object) -> object:
    """The source file for a compiled one: what the user edits."""
    if isinstance(name, str) and name.endswith(".pyc"):
        with suppress(ValueError, NotImplementedError):
            return importlib.util.source_from_cache(name)
    return name
