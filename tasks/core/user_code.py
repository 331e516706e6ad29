"""Load what the user's YAML names as `module:function` (runs in a worker)."""

import importlib
import inspect
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import cast

from tasks.core.errors import UserCodeError

_LIBRARIES = ("site-packages", "dist-packages")
# What Python's own errors mean.
_IN_WORDS = {
    AssertionError: "an assertion does not hold",
    AttributeError: "an attribute is missing",
    IndexError: "an index lies outside",
    NameError: "a name is not defined",
    TypeError: "a value is of the wrong type",
    UnboundLocalError: "a variable has no value yet",
}


def load_function(reference: str, project: Path) -> Callable[..., object]:
    """Import `module:function` with the project's folder first on the path; raise UserCodeError if that fails."""
    if str(project) not in sys.path[:1]:
        sys.path.insert(0, str(project))
    module_name, _, attribute = reference.partition(":")
    _forget_foreign(module_name.partition(".")[0], project)
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        raise UserCodeError(*_blame(f"importing {module_name!r}", error, f"the module {module_name}")) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise UserCodeError(f"{module_name!r} has no function {attribute!r}", f"define it in {module.__file__}")
    return cast("Callable[..., object]", function)


def _forget_foreign(package: str, project: Path) -> None:
    """Drop modules of that name that were loaded from elsewhere, so that the project's own are found."""
    inside = (project / package).is_dir() or (project / f"{package}.py").is_file()
    for name in [name for name in sys.modules if name.partition(".")[0] == package] if inside else []:
        path = getattr(sys.modules[name], "__file__", None)
        if path and not Path(path).is_relative_to(project):
            del sys.modules[name]


def call_user(reference: str, function: Callable[..., object], *arguments: object) -> object:
    """Call the user's function; whatever it raises becomes a UserCodeError that names it."""
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:
        raise UserCodeError(*_blame(reference, error, f"how {reference} is defined")) from error


def _is_theirs(file: str) -> bool:
    """Whether a frame's file is the user's own, not that of trtflow, of a library or of the interpreter."""
    ours = (str(Path(__file__).parents[1]), sysconfig.get_paths()["stdlib"], "<")
    return not file.startswith(ours) and set(_LIBRARIES).isdisjoint(Path(file).parts)


def _blame(what: str, error: BaseException, otherwise: str) -> tuple[str, str]:
    """Say what the user's code raised, and at which line of it, or where to look if it did not get so far."""
    if isinstance(error, MemoryError):
        return f"{what} ran out of memory", "use a smaller batch or model, or a machine with more memory"
    if isinstance(error, SystemExit):
        return f"{what} called sys.exit({error.code!r})", "raise an error that says what is wrong, or return"
    places = [f"{frame.filename}:{frame.lineno}" for frame in inspect.trace() if _is_theirs(frame.filename)]
    return f"{what} {_told(error)}", f"see {places[-1] if places else otherwise}"


def _told(error: BaseException) -> str:
    """What was raised: in words where the class is one of Python's own, which says little to who did not write it."""
    said = "".join(str(error).strip().splitlines()[:1])
    kind = type(error)
    if kind is KeyError:
        return f"failed: there is no key {said}"
    if kind is RecursionError:
        return "failed: it calls itself without end"
    if kind in _IN_WORDS:
        return f"failed: {_IN_WORDS[kind]}" + (f": {said}" if said else "")
    return f"raised {': '.join(part for part in (kind.__name__, said) if part)}"
