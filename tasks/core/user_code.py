"""Load what the user's YAML names as `module:function` (runs in a worker)."""

import importlib
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import cast

from tasks.core.errors import UserCodeError


def load_function(reference: str, project: Path) -> Callable[..., object]:
    """Import `module:function` with the project's folder first on the path; raise UserCodeError if that fails."""
    if str(project) not in sys.path[:1]:
        sys.path.insert(0, str(project))
    module_name, _, attribute = reference.partition(":")
    _forget_foreign(module_name.partition(".")[0], project)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise UserCodeError(*_blame(f"importing {module_name!r} failed", error)) from error
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
    except Exception as error:
        raise UserCodeError(*_blame(f"{reference} raised an error", error)) from error


def _blame(what: str, error: BaseException) -> tuple[str, str]:
    """Say what the user's code raised, and at which line of it."""
    trace = inspect.trace() or []
    place = f"{trace[-1].filename}:{trace[-1].lineno}" if trace else "its source"
    first_line = (str(error).strip() or "no message").splitlines()[0]
    return f"{what}: {type(error).__name__}: {first_line}", f"see {place}"
