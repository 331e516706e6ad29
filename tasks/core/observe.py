"""See which files, folders, modules and packages a piece of user code depends on (runs in a worker)."""

import contextlib
import functools
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from tasks.core.digests import Fingerprint, fingerprint, sha256_file
from tasks.core.errors import UserCodeError
from tasks.core.observations import listing_digest
from tasks.core.report import Observation

_EVENTS = frozenset({"open", "os.listdir", "os.scandir"})
_NOT_FILES = ("/proc/", "/sys/", "/dev/")
_PACKAGE_FOLDERS = frozenset({"site-packages", "dist-packages"})


class _Seen:
    """What the audit hook collects: paths as the code named them, made absolute at once."""

    def __init__(self) -> None:
        self.files: dict[str, Fingerprint | None] = {}
        self.folders: set[str] = set()
        self.active = True

    def file(self, name: object) -> None:
        path = _absolute(name)
        if path is None or path in self.files:
            return
        try:
            mark = fingerprint(Path(path))
        except OSError:
            self.files[path] = None
            return
        if Path(path).is_dir():
            self.folders.add(path)
        else:
            self.files[path] = mark

    def folder(self, name: object) -> None:
        path = _absolute(name if name is not None else ".")
        if path is not None:
            self.folders.add(path)

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        # First the name: `_by_import` raises an event of its own.
        if event not in _EVENTS or not self.active or _by_import():
            return
        if event == "open" and not _writes(arguments):
            self.file(arguments[0])
        elif event != "open":
            self.folder(arguments[0])


def _by_import() -> bool:
    """Whether the import system raised the event: it lists whole folders, and only the modules found there count."""
    return sys._getframe(2).f_code.co_filename.startswith("<frozen importlib")


def _absolute(name: object) -> str | None:
    if not isinstance(name, str | bytes | os.PathLike):
        return None  # an open file descriptor: whoever opened it was seen
    return os.path.abspath(os.fsdecode(name))  # noqa: PTH100 - resolve() would follow links: the name is what was read


def _writes(arguments: tuple[object, ...]) -> bool:
    """Whether an `open` event is for writing only; its arguments are (path, mode, flags)."""
    _, _, flags = arguments
    return isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_CREAT | os.O_TRUNC))


@contextlib.contextmanager
def observing(project: Path, ignored: Path) -> Iterator[Callable[[], tuple[Observation, ...]]]:
    """Observe the block, run in the project's folder; what it yields gives the observations made so far.

    Paths under `ignored` (the step's own folder), in the interpreter and in its packages are left out; a
    package counts by its version instead. What cannot be seen: environment variables, the network, and
    files that a C extension opens by itself, other than safetensors.
    """
    os.chdir(project)  # relative paths in user code mean what they mean in the YAML
    seen = _Seen()
    sys.addaudithook(seen.hook)
    _watch_safetensors(seen)
    with _uncached_imports(project):
        try:
            yield lambda: _observations(seen, project, ignored)
        finally:
            seen.active = False


def _observations(seen: _Seen, project: Path, ignored: Path) -> tuple[Observation, ...]:
    seen.active = False
    skip = _skipped(ignored)
    modules = [path for path in _module_files() if not skip(path)]
    for path in modules:
        seen.file(path)
    files = [_file_observation(path, mark, project) for path, mark in sorted(seen.files.items()) if not skip(path)]
    folders = [
        Observation(kind="listing", name=_name(path, project), digest=listing_digest(Path(path)))
        for path in sorted(seen.folders)
        if not skip(path)
    ]
    return (*files, *folders, *_packages())


def _file_observation(path: str, mark: Fingerprint | None, project: Path) -> Observation:
    name = _name(path, project)
    if mark is None:
        return Observation(kind="absent", name=name)
    digest = sha256_file(Path(path))
    if fingerprint(Path(path)) != mark:
        raise UserCodeError(f"{path} changed while it was read", "run again once nothing writes to it")
    return Observation(kind="file", name=name, digest=digest)


def _name(path: str, project: Path) -> str:
    return os.path.relpath(path, project) if Path(path).is_relative_to(project) else path


def _skipped(ignored: Path) -> Callable[[str], bool]:
    paths = sysconfig.get_paths()
    interpreter = {paths["stdlib"], paths["platstdlib"], *((sys.prefix,) if sys.prefix != sys.base_prefix else ())}
    roots = tuple(f"{os.path.realpath(root)}{os.sep}" for root in (*interpreter, str(ignored)))
    roots += (*(f"{root}{os.sep}" for root in interpreter), *_NOT_FILES)

    def skip(path: str) -> bool:
        parts = Path(path).parts
        return (
            path.startswith(roots)
            or path == str(ignored)
            or not _PACKAGE_FOLDERS.isdisjoint(parts)
            or "__pycache__" in parts
        )

    return skip


def _module_files() -> Iterator[str]:
    own = {"tasks", "flows"}
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None)
        if path and name.partition(".")[0] not in own and name != "__main__":
            yield os.path.abspath(path)  # noqa: PTH100 - as in _absolute


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(importlib.metadata.packages_distributions())


def _packages() -> Iterator[Observation]:
    """Versions of the distributions that the loaded modules come from."""
    tops = {name.partition(".")[0] for name in tuple(sys.modules)}
    names = {distribution for top in tops for distribution in _distributions().get(top, ())}
    for name in sorted(names - {"trtflow"}):
        yield Observation(kind="package", name=name, digest=importlib.metadata.version(name))


def _watch_safetensors(seen: _Seen) -> None:
    """Let `seen` know of files opened by safetensors, whose own code opens them outside Python."""
    import safetensors
    import safetensors.numpy

    original = safetensors.safe_open

    @functools.wraps(original, updated=())
    def safe_open(filename: str | os.PathLike[str], *arguments: Any, **options: Any) -> object:  # noqa: ANN401
        seen.file(filename)
        return original(filename, *arguments, **options)

    for module in (safetensors, safetensors.numpy, sys.modules.get("safetensors.torch")):
        if isinstance(module, ModuleType) and hasattr(module, "safe_open"):
            setattr(module, "safe_open", safe_open)  # noqa: B010 - mypy knows it as a class


class _UncachedLoader(importlib.machinery.SourceFileLoader):
    """Compiles from source always: a .pyc is matched by size and whole seconds, so a quick edit could be missed."""

    def get_code(self, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


@contextlib.contextmanager
def _uncached_imports(project: Path) -> Iterator[None]:
    finder = importlib.machinery.FileFinder.path_hook(
        (importlib.machinery.ExtensionFileLoader, importlib.machinery.EXTENSION_SUFFIXES),
        (_UncachedLoader, importlib.machinery.SOURCE_SUFFIXES),
    )

    def hook(path: str) -> importlib.abc.PathEntryFinder:
        inside = Path(path).resolve().is_relative_to(project) and _PACKAGE_FOLDERS.isdisjoint(Path(path).parts)
        if not inside:
            raise ImportError(path)
        return finder(path)

    sys.path_hooks.insert(0, hook)
    sys.path_importer_cache.clear()
    try:
        yield
    finally:
        sys.path_hooks.remove(hook)
        sys.path_importer_cache.clear()
