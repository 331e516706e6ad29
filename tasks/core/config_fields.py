"""What the sections of a pipelines.yaml are made of: names, references, paths, and how a wrong one is refused."""

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Annotated, ClassVar, NamedTuple, TypeAlias

from pydantic import AfterValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from tasks.core.frozen import Frozen

# Keys of later features, in a pipeline and at the top level: told apart from a typo.
RESERVED = ("profiles", "pool", "timeout")

# difflib compares every pair of letters: a long text is no misspelt name.
_LONGEST_GUESS = 100
_PROTOCOL = re.compile(r"[a-z][a-z0-9+.-]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Section(Frozen):
    """A mapping of a pipelines.yaml.

    `reserved` are keys that a later version will take, `implied` are fields that YAML writes in another way.
    """

    model_config = ConfigDict(allow_inf_nan=False)
    reserved: ClassVar[tuple[str, ...]] = ()
    implied: ClassVar[tuple[str, ...]] = ()


class Problem(NamedTuple):
    """One thing that is wrong; `path` leads to it from the section that found it."""

    message: str
    cure: str = ""
    path: tuple[str | int, ...] = ()


def refusal(problems: Sequence[Problem]) -> PydanticCustomError:
    """Make the error by which a validator reports `problems`, each at its own path."""
    summary = "; ".join(problem.message for problem in problems)
    return PydanticCustomError("refused", "{summary}", {"summary": summary, "problems": tuple(problems)})


def nearest(found: str, valid: Iterable[str]) -> str:
    """Ask whether the valid name that looks most like `found` was meant; empty where none does."""
    names = {name.lower(): name for name in valid}
    near = get_close_matches(found[:_LONGEST_GUESS].lower(), names, n=1)
    return f"did you mean {names[near[0]]!r}? " if near else ""


def suggest(found: str, valid: Iterable[str]) -> str:
    """Say which valid name is nearest to `found`, and list them all."""
    names = list(valid)
    return f"{nearest(found, names)}valid here: {', '.join(names)}" if names else ""


def is_name(text: str) -> bool:
    """Tell whether `text` can be the name of something, and so of a file."""
    return _NAME.fullmatch(text) is not None and ".." not in text


def _name(text: str) -> str:
    if not is_name(text):
        cure = "use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit, without '..'"
        raise refusal([Problem(f"{text!r} cannot be a name", cure)])
    return text


def is_function(text: str) -> bool:
    """Tell whether `text` reads `module:function`."""
    module, colon, function = text.partition(":")
    return bool(colon) and function.isidentifier() and all(part.isidentifier() for part in module.split("."))


def is_npz(source: str) -> bool:
    """Tell whether a data source is a file instead of a `module:function`."""
    return source.endswith(".npz")


def _function(text: str) -> str:
    if not is_function(text):
        raise refusal([Problem(f"{text!r} is not module:function", 'write it like "models.digits:build"')])
    return text


def _source(text: str) -> str:
    if not (is_npz(text) or is_function(text)):
        cure = 'write it like "models.digits:calibration" or "data/calibration.npz"'
        raise refusal([Problem(f"{text!r} is neither module:function nor a path that ends in .npz", cure)])
    return _path(text)


def _path(text: str) -> str:
    if not text.strip() or any(character < " " for character in text):
        raise refusal([Problem(f"{text!r} is not a path", "write the path of a file, relative to this YAML")])
    return text


def _root(text: str) -> str:
    protocol, separator, rest = _path(text).partition("://")
    cure = "write a folder, relative to this YAML, or the beginning of URLs: s3://bucket/folder"
    parts = set(re.split(r"[/\\]", rest if separator else ""))
    if separator and ("::" in text or not _PROTOCOL.fullmatch(protocol) or {"..", "."} & parts):
        raise refusal([Problem(f"{text!r:.99} is no plain URL", cure)])
    if not rest.strip("/") if separator else text.strip("/") == "":
        raise refusal([Problem(f"{text!r} would permit every place", cure)])
    return text


Name: TypeAlias = Annotated[str, AfterValidator(_name)]
FunctionRef: TypeAlias = Annotated[str, AfterValidator(_function)]
PathText: TypeAlias = Annotated[str, AfterValidator(_path)]
Root: TypeAlias = Annotated[str, AfterValidator(_root)]
Source: TypeAlias = Annotated[str, AfterValidator(_source)]
Point: TypeAlias = dict[str, Annotated[int, Field(ge=1)]]
