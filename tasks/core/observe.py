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
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, TypeAlias

from tasks.core.digests import Fingerprint, fingerprint, sha256_file
from tasks.core.environment import version_of
from tasks.core.errors import UserCodeError
from tasks.core.observations import listing_digest
from tasks.core.report import Observation
from tasks.core.seen import Seen

_NOT_FILES = ("/proc/", "/sys/", "/dev/")
_OWN = str(Path(__file__).parents[1])
_PACKAGE_FOLDERS = frozenset({"site-packages", "dist-packages"})
# Functions that open files in code of their own, outside Python.
_NATIVE_READERS = (
    ("safetensors", "safe_open"),
    ("safetensors.numpy", "safe_open"),
    ("safetensors.torch", "safe_open"),
    ("torch.jit", "load"),
)

Skip: TypeAlias = Callable[[str], bool]


@contextlib.contextmanager
def observing(project: Path, *ignored: Path) -> Iterator[Callable[[], tuple[Observation, ...]]]:
    """Observe the block, `ignored` (the step's folder, and what it is given) excepted; yield what gives what was seen.

    Not seen: environment variables, the network, what a program that the code starts reads, and files that an
    extension module opens by itself, other than those of safetensors and TorchScript.
    """
    os.chdir(project)  # relative paths in user code mean what they mean in the YAML
    seen, skip = Seen(), _skipped(project, ignored)
    sys.addaudithook(seen.hook)
    _watch_native_readers(seen)
    with _noted_searches(seen, project, skip), _noted_misses(seen, project), _uncached_imports(skip):
        try:
            yield lambda: _observations(seen, project, skip)
        finally:
            seen.stop()


def _observations(seen: Seen, project: Path, skip: Skip) -> tuple[Observation, ...]:
    for path in _module_files():
        seen.file(path)
    files = [_file_observation(seen, path, project) for path in sorted(seen.files) if not skip(path)]
    missing = [Observation(kind="absent", name=_name(path, project)) for path in _missing_modules(seen, skip)]
    folders = [
        Observation(kind="listing", name=_name(path, project), digest=listing_digest(Path(path)))
        for path in sorted(seen.folders)
        if not skip(path)
    ]
    return (*dict.fromkeys([*files, *missing]), *folders, *_packages())


def _file_observation(seen: Seen, path: str, project: Path) -> Observation:
    """Note a file as it was read; one that the code also wrote, as the code left it."""
    name, place = _name(path, project), Path(path)
    if seen.files[path] is None and not (path in seen.written and place.is_file()):
        return Observation(kind="absent", name=name)
    try:
        digest = sha256_file(place)
        mark: Fingerprint | None = fingerprint(place)
    except FileNotFoundError:
        digest, mark = "", None
    except OSError:  # not readable for the code either
        return Observation(kind="file", name=name)
    if path in seen.written:
        return Observation(kind="file" if mark else "absent", name=name, digest=digest)
    if mark != seen.files[path]:
        raise UserCodeError(f"{path} changed while it was read", "run again once nothing writes to it")
    return Observation(kind="file", name=name, digest=digest)


def _name(path: str, project: Path) -> str:
    """Relative to the project where it lies there, by the name that the project goes by or by its real one."""
    roots = (str(project), _real(project))
    return next((os.path.relpath(path, root) for root in roots if Path(path).is_relative_to(root)), path)


@functools.cache
def _real(project: Path) -> str:
    return os.path.realpath(project)


def _skipped(project: Path, ignored: Sequence[Path]) -> Skip:
    """What is not the user's: the interpreter, installed packages (their versions count), trtflow, the step's files."""
    places = sysconfig.get_paths()
    interpreter = {places["stdlib"], places["platstdlib"], *((sys.prefix,) if sys.prefix != sys.base_prefix else ())}
    # An environment may lie in the project, and the project in an environment.
    around = {root for root in interpreter if project.is_relative_to(root)}
    zipped = {path for path in sys.path if path.endswith(".zip")}  # the standard library's, mostly absent
    named = {*(interpreter - around), *zipped, _OWN, *map(str, ignored)}
    folders = named | {os.path.realpath(root) for root in named}
    roots = (*(f"{folder}{os.sep}" for folder in folders), *_NOT_FILES)

    @functools.cache
    def skip(path: str) -> bool:
        if path in folders or path.startswith(roots):
            return True
        parts = Path(_name(path, project)).parts
        return not _PACKAGE_FOLDERS.isdisjoint(parts) or "__pycache__" in parts

    return skip


def _module_files() -> Iterator[str]:
    own = {"tasks", "flows"}
    for name, module in sorted(sys.modules.items()):
        path = getattr(module, "__file__", None)
        # Some of torch's modules give themselves the name of a file that is nowhere.
        if path and name.partition(".")[0] not in own and name != "__main__" and Path(path).is_absolute():
            yield path


def _packages() -> Iterator[Observation]:
    """Versions of the distributions that the loaded modules come from."""
    loaded = {name.partition(".")[0] for name in tuple(sys.modules)}
    names = {
        found.metadata["Name"]
        for found in importlib.metadata.distributions()
        if not loaded.isdisjoint(_modules_of(found)) and (found.read_text("METADATA") or found.read_text("PKG-INFO"))
    }
    for name in sorted(names - {"trtflow"}):
        # Asked for by name, as whoever checks it will: what an interrupted pip left has the name of what is there now.
        yield Observation(kind="package", name=name, digest=version_of(name) or "")


def _modules_of(distribution: importlib.metadata.Distribution) -> set[str]:
    """Top-level names; `importlib.metadata.packages_distributions` takes ten times as long to tell them."""
    if declared := distribution.read_text("top_level.txt"):
        return set(declared.split())
    paths = [line.partition(",")[0] for line in (distribution.read_text("RECORD") or "").splitlines()]
    return {path.partition("/")[0] if "/" in path else path.partition(".")[0] for path in paths}


def _watch_native_readers(seen: Seen) -> None:
    """Let `seen` know of files that Python does not open."""
    import safetensors.numpy  # noqa: F401 - its own reference to safe_open is replaced too

    for module_name, name in _NATIVE_READERS:
        module = sys.modules.get(module_name)
        original = getattr(module, name, None)
        if original is not None:
            setattr(module, name, _announced(seen, original))


def _announced(seen: Seen, original: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(original, updated=())
    def opened(*arguments: Any, **options: Any) -> object:  # noqa: ANN401
        seen.file(arguments[0] if arguments else options.get("filename", options.get("f")))
        return original(*arguments, **options)

    return opened


@contextlib.contextmanager
def _noted_searches(seen: Seen, project: Path, skip: Skip) -> Iterator[None]:
    """Note which modules the user's code looks for in the project: one that is not there would count if it came."""

    class Notes(importlib.abc.MetaPathFinder):
        def find_spec(self, fullname: str, path: Sequence[str] | None, _: ModuleType | None = None) -> None:
            importer = _importer()
            by_package = skip(importer) and not importer.startswith(_OWN)
            standard = path is None and fullname in sys.stdlib_module_names
            for folder in () if by_package or standard else sys.path if path is None else path:
                if Path(folder).is_relative_to(project):
                    seen.searched.add(f"{folder}{os.sep}{fullname.rpartition('.')[2]}")

    notes = Notes()
    sys.meta_path.insert(0, notes)
    try:
        yield
    finally:
        sys.meta_path.remove(notes)


def _importer() -> str:
    """The file whose code imports."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(("<frozen importlib", importlib.__file__)):
        frame = frame.f_back
    return frame.f_code.co_filename


def _missing_modules(seen: Seen, skip: Skip) -> list[str]:
    """What would be found in place of, or before, a module that an import looked for."""
    found = []
    for stem in sorted(seen.searched):
        package = f"{stem}/__init__.py" if Path(stem).is_dir() else stem
        found += [path for path in (f"{stem}.py", package) if not Path(path).exists() and not skip(path)]
    return found


@contextlib.contextmanager
def _noted_misses(seen: Seen, project: Path) -> Iterator[None]:
    """Note files of the project that are not there when the code asks for them, by `Path.exists` and the like."""
    original = os.stat

    @functools.wraps(original)
    def noting(path: Any, *arguments: Any, **options: Any) -> os.stat_result:  # noqa: ANN401
        try:
            return original(path, *arguments, **options)
        except FileNotFoundError:
            seen.missed(path, project)
            raise

    setattr(os, "stat", noting)  # noqa: B010 - mypy knows it as a function
    try:
        yield
    finally:
        setattr(os, "stat", original)  # noqa: B010


@contextlib.contextmanager
def _uncached_imports(skip: Skip) -> Iterator[None]:
    """Compile the user's modules from source: a .pyc is matched by size and whole seconds, and misses a quick edit."""
    loader = importlib.machinery.SourceFileLoader
    cached = loader.get_code

    def get_code(self: importlib.machinery.SourceFileLoader, fullname: str) -> CodeType | None:
        path = self.get_filename(fullname)
        if skip(os.path.abspath(path)):  # noqa: PTH100 - resolve() would follow links
            return cached(self, fullname)
        return self.source_to_code(self.get_data(path), path)

    setattr(loader, "get_code", get_code)  # noqa: B010 - mypy knows it as a method
    try:
        yield
    finally:
        delattr(loader, "get_code")
