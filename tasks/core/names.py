"""Whether what a config names is there: files, and functions of the user's modules, without importing them."""

import os
from collections.abc import Callable, Iterator
from importlib.machinery import BYTECODE_SUFFIXES, EXTENSION_SUFFIXES, SOURCE_SUFFIXES
from importlib.util import find_spec
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import NamedTuple, TypeAlias

from tasks.core.config import Config, PipelineConfig, TorchModel
from tasks.core.config_fields import Problem, is_npz, nearest, suggest
from tasks.core.defined_names import defined_names
from tasks.core.errors import ConfigError
from tasks.core.onnx_path import candidates, what_is_wrong
from tasks.core.paths import absolute_path
from tasks.core.yaml_source import config_error, locate

# Looked for below the folder of the YAML.
Check: TypeAlias = Callable[[Path, str], Iterator[Problem]]

_OWN_TREE = Path(__file__).resolve().parents[2]
_OWN_PACKAGES = ("flows", "tasks")


class _Reference(NamedTuple):
    """A file or function that a pipeline names, where it does, and how to look for it."""

    path: tuple[str, ...]
    text: str
    check: Check


def check_names(config: Config, file: Path) -> None:
    """Raise one ConfigError with every file, module and function that `file` names and that is not there."""
    folder = file.absolute().parent
    problems = [
        problem._replace(path=("pipelines", name, *reference.path))
        for name, pipeline in config.pipelines.items()
        for reference in _references(pipeline)
        for problem in reference.check(folder, reference.text)
    ]
    problems += _interpreter_problems(config, folder)
    placed = [(locate(file, problem.path).line, problem) for problem in problems]
    found = [*((None, problem) for problem in _hidden_packages(folder)), *placed]
    if found:
        raise config_error(file, found)


def _references(pipeline: PipelineConfig) -> Iterator[_Reference]:
    model, calibration, evaluation = pipeline.model, pipeline.data.calibration, pipeline.data.evaluation
    if isinstance(model, TorchModel):
        yield _Reference(("model", "torch"), model.torch, _function_problems)
        if model.checkpoint is not None:
            yield _Reference(("model", "checkpoint"), model.checkpoint, file_problems)
    else:
        yield _Reference(("model", "onnx"), model.onnx, _onnx_problems)
    for name, data in (("calibration", calibration), ("evaluation", evaluation)):
        if data is not None:
            check = file_problems if is_npz(data.source) else _function_problems
            yield _Reference(("data", name, "source"), data.source, check)
    if evaluation is not None and evaluation.metric is not None:
        path = ("data", "evaluation", "metric", "function")
        yield _Reference(path, evaluation.metric.function, _function_problems)


def _interpreter_problems(config: Config, folder: Path) -> Iterator[Problem]:
    """Name the Pythons that are not there; one whose engines are all optional may live on another host."""
    engines = [engine for pipeline in config.pipelines.values() for engine in pipeline.engines or ()]
    for name, interpreter in config.interpreters.items():
        try:
            python = absolute_path(interpreter.python, folder)
        except ConfigError as error:
            yield Problem(error.message, error.cure, ("interpreters", name, "python"))
            continue
        users = [engine for engine in engines if name in (engine.interpreter, *engine.run_on)]
        if (users and all(engine.optional for engine in users)) or (os.access(python, os.X_OK) and python.is_file()):
            continue
        cure = f"make it (`trtflow doctor` says what goes into it), or correct the path: it is relative to {folder}"
        found = f"there is no Python at {interpreter.python!r}"
        yield Problem(found, cure, ("interpreters", name, "python"))


def _hidden_packages(folder: Path) -> Iterator[Problem]:
    """Find the user's own modules whose names are taken by trtflow's packages, so that they could never be imported."""
    if folder.resolve() == _OWN_TREE:
        return
    for name in _OWN_PACKAGES:
        module, package = folder / f"{name}.py", folder / name
        if module.is_file() or (package.is_dir() and any(package.glob("*.py"))):
            path = module if module.is_file() else package
            yield Problem(
                f"{path} has the name of a package of trtflow, which hides it", f"give your {name!r} another name"
            )


def file_problems(folder: Path, text: str) -> Iterator[Problem]:
    """Say why `text` is no file that can be read; nothing where it is one."""
    path = folder / text
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        near = nearest(path.name, _listing(path.parent))
        yield Problem(f"there is no file {text!r}", f"{near}paths are relative to {folder}")
    except OSError as error:
        yield Problem(f"{text!r} cannot be read: {error.strerror}", f"paths are relative to {folder}")
    else:
        if not S_ISREG(mode):
            kind = "a folder" if S_ISDIR(mode) else "a device, pipe or socket"
            yield Problem(f"{text!r} is {kind}, expected a file", f"paths are relative to {folder}")


def _onnx_problems(folder: Path, text: str) -> Iterator[Problem]:
    """A folder may stand for the one ONNX file in it."""
    if not S_ISDIR(_mode(folder / text)):
        yield from file_problems(folder, text)
        return
    try:
        found = candidates(folder / text)
    except OSError as error:
        yield Problem(f"{text!r} cannot be read: {error.strerror}", f"paths are relative to {folder}")
    else:
        if len(found) != 1:
            yield Problem(*what_is_wrong(text, found))


def _function_problems(folder: Path, text: str) -> Iterator[Problem]:
    module, _, function = text.partition(":")
    file = _module_file(folder, module)
    if file is None:
        yield from _module_problems(folder, module)
        return
    if file.suffix not in SOURCE_SUFFIXES:
        return
    try:
        names = defined_names(file.read_bytes())
    except SyntaxError as error:
        yield Problem(f"{file}, line {error.lineno or '?'}, is not Python: {error.msg}", "correct that file")
    except OSError as error:
        yield Problem(f"{file} cannot be read: {error.strerror}", "let it be read")
    else:
        if names is not None and function not in names:
            public = sorted(name for name in names if not name.startswith("_"))
            yield Problem(f"{file} defines no {function!r}", suggest(function, public) or f"define {function!r} there")


def _module_problems(folder: Path, module: str) -> Iterator[Problem]:
    """Say that a module which is not below `folder` is nowhere else either."""
    top = module.partition(".")[0]
    # A folder without __init__.py gives way to an installed package of the same name, as when Python imports it.
    if _module_file(folder, top) is None and _is_installed(top, folder):
        return
    local = _is_folder(folder / top) or _module_file(folder, top)
    where = f"below {folder}" if local else f"in {folder}, and none is installed"
    cure = (
        f"{_nearest_module(folder, module)}a module is found from the folder of this YAML, or installed beside trtflow"
    )
    yield Problem(f"there is no module {module!r} {where}", cure)


def _module_file(folder: Path, module: str) -> Path | None:
    """Find the file of a module as Python does: the package before the module."""
    place = folder.joinpath(*module.split("."))
    suffixes = (*EXTENSION_SUFFIXES, *SOURCE_SUFFIXES, *BYTECODE_SUFFIXES)
    candidates = [place / "__init__.py", *(place.with_name(place.name + suffix) for suffix in suffixes)]
    return next((candidate for candidate in candidates if S_ISREG(_mode(candidate))), None)


def _is_folder(path: Path) -> bool:
    return S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    """Tell what kind of file `path` is; 0 where it is none, or cannot be one (a name that is too long)."""
    try:
        return path.stat().st_mode
    except OSError:
        return 0


def _is_installed(top: str, folder: Path) -> bool:
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # a finder that fails; a module without a spec
        return False
    if spec is None or top == "__main__":  # in a worker that is another program than here
        return False
    places = [Path(place).resolve() for place in spec.submodule_search_locations or ()]
    return spec.origin is not None or any(place != (folder / top).resolve() for place in places)


def _nearest_module(folder: Path, module: str) -> str:
    """Ask whether a module that is there was meant, for the first part of the name that is not."""
    for part in module.split("."):
        if not _is_folder(folder / part):
            names = _listing(folder)
            return nearest(
                part, [Path(name).stem for name in names if name.endswith(".py") or _is_folder(folder / name)]
            )
        folder = folder / part
    return ""


def _listing(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except OSError:  # not there, or not ours to read: then there is nothing to suggest
        return []
