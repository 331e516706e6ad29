"""Load what the user's YAML names as `module:function` (runs in a worker)."""

import importlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import cast

from tasks.core.errors import UserCodeError

_LIBRARIES = ("site-packages", "dist-packages")
# Packages that are not called as what they are installed by.
_DISTRIBUTIONS = {
    "cv2": "opencv-python",
    "fitz": "pymupdf",
    "google": "protobuf",
    "pytorch_lightning": "pytorch-lightning",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "yaml": "pyyaml",
}
# Names of classes tell a user little: what is said beside them, where it needs more words than its own.
_IN_WORDS: dict[type[BaseException], str] = {
    KeyError: "there is no such key",
    AssertionError: "an assertion does not hold",
    AttributeError: "",
    IndexError: "",
    NameError: "",
    RecursionError: "",
    TypeError: "",
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
    place = places[-1] if places else otherwise
    if isinstance(error, ModuleNotFoundError) and error.name:
        return _missing(what, error.name, place)
    return f"{what} {_raised(error)}", f"see {place}"


def _missing(what: str, name: str, place: str) -> tuple[str, str]:
    """Say which module is not there: one of the user's own, of a package that is here, or a package."""
    package = name.partition(".")[0]
    if repr(name) in what or package in sys.modules or importlib.util.find_spec(package) is not None:
        return f"{what} failed: there is no module {name!r}", f"see {place}"
    told = f"{what} needs the module {name!r}, which is not installed in {sys.prefix}"
    return told, f"install it there (pip install {_DISTRIBUTIONS.get(package, package)}); it is imported at {place}"


def _raised(error: BaseException) -> str:
    """What was raised: the kinds that Python itself raises are told by what they say, or in words."""
    lines = str(error).strip().splitlines()[:1]
    words = next((words for kind, words in _IN_WORDS.items() if isinstance(error, kind)), None)
    if words is None:
        return f"raised {': '.join([type(error).__name__, *lines])}"
    return "failed: " + (": ".join(filter(None, (words, *lines))) or "no reason given")
