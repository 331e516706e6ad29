"""What pydantic finds wrong with a config, said in plain sentences that are placed in the YAML."""

from collections.abc import Iterator, Sequence
from types import UnionType
from typing import Any, Literal, TypeAlias, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from tasks.core.config import Config
from tasks.core.config_fields import Problem, nearest, suggest
from tasks.core.yaml_tree import Entry, Path

Placed: TypeAlias = tuple[int | None, Problem]

_EXPECTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "tuple_type": "a list",
    "finite_number": "a finite number",
}
_BOUNDS = {
    "greater_than": ("gt", "more than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}
_LONGEST_QUOTE = 60
_WORDS = {dict: "a mapping", tuple: "a list", type(None): "nothing"}


def walk(root: Entry, path: Sequence[str | int]) -> tuple[Entry, Path]:
    """Follow `path` as far as the YAML goes; parts that it does not write (a union's tags, defaults) are left out."""
    entry = root
    walked: Path = ()
    for part in path:
        steps = _steps(entry, part)
        for step in steps:
            entry = entry.children[step]
        walked = (*walked, *steps)
    return entry, walked


def _steps(entry: Entry, part: str | int) -> Path:
    if part in entry.children:
        return (part,)
    # {int8: {name: x}} holds the fields of a precision one level deeper, below its only key.
    only = list(entry.children.items())
    if len(only) == 1 and isinstance(only[0][0], str) and part in only[0][1].children:
        return (only[0][0], part)
    return ()


def translate(errors: Sequence[ErrorDetails], root: Entry) -> list[Placed]:
    """Say what each error means, where it is; errors of the branches of one union become one."""
    unions: dict[Path, set[str]] = {}
    for error in errors:
        unions.setdefault(walk(root, error["loc"])[1], set()).add(error["type"])
    placed: dict[tuple[int | None, Problem], None] = {}
    for error in errors:
        entry, path = walk(root, error["loc"])
        for problem in _problems(error, entry, unions[path]):
            deeper, full = walk(entry, problem.path)
            placed[deeper.line, problem._replace(path=(*path, *full))] = None
    return list(placed)


def _problems(error: ErrorDetails, entry: Entry, kinds: set[str]) -> Iterator[Problem]:
    kind, context, loc = error["type"], error.get("ctx", {}), error["loc"]
    if kind == "refused":
        yield from context["problems"]
    elif kind == "extra_forbidden":
        yield _unknown_key(str(loc[-1]), _section(loc[:-1]))
    elif kind == "missing":
        yield _missing(loc[-1], _section(loc[:-1]), entry)
    elif kind == "literal_error":
        yield _not_one_of(error["input"], context["expected"])
    elif kind in _EXPECTED:
        expected = " or ".join(_EXPECTED[each] for each in _EXPECTED if each in kinds)
        cure = _cure(kind, entry, _section(loc)) if len(kinds) == 1 else ""
        yield Problem(f"found {_describe(entry)}, expected {expected}", cure or f"write {expected}")
    else:
        yield from _bound_problems(error, entry)


def _bound_problems(error: ErrorDetails, entry: Entry) -> Iterator[Problem]:
    """Say which number or count is out of bounds."""
    kind, context = error["type"], error.get("ctx", {})
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        yield Problem(f"found {_describe(entry)}, expected {words} {context[key]}", "correct the number")
    elif kind == "too_short":
        # Entries that are wrong themselves are not counted, and have been told of already.
        if len(entry.children) < context["min_length"]:
            yield Problem("found no entry, expected at least one", "add one")
    elif kind == "too_long":
        bound = f"expected at most {context['max_length']}"
        yield Problem(f"found {len(entry.children)} entries, {bound}", "remove the others")
    else:
        yield Problem(f"found {_describe(entry)}: {error['msg']}", "correct the value")


def _unknown_key(key: str, section: type[BaseModel] | None) -> Problem:
    if key in getattr(section, "reserved", ()):
        return Problem(f"the key {key!r} is known, not yet supported", "remove it for now")
    return Problem(f"unknown key {_short(key)}", suggest(key, _keys(section)))


def _missing(key: str | int, section: type[BaseModel] | None, entry: Entry) -> Problem:
    if isinstance(key, int):
        return Problem(f"found {len(entry.children)} items, expected at least {key + 1}", "add what is missing")
    cure = "write version: 1" if key == "version" else f"add {key!r}; valid here: {', '.join(_keys(section))}"
    return Problem(f"the key {key!r} is missing", cure)


def _not_one_of(found: object, expected: str) -> Problem:
    names = expected.replace(" or ", ", ").replace("'", "").split(", ")
    if not isinstance(found, str):
        return Problem(f"found {_say(found)}, expected one of {', '.join(names)}", "write one of these")
    guess = nearest(found, names).rstrip()
    return Problem(f"found {_short(found)}, expected one of {', '.join(names)}", guess or "write one of these")


def _describe(entry: Entry) -> str:
    """Name what the YAML holds, the way it is written there."""
    if isinstance(entry.plain, bool):
        return f"{_short(entry.text)}, which YAML reads as {str(entry.plain).lower()}"
    if isinstance(entry.plain, int | float):
        return f"the number {entry.text:.60}"
    return _say(entry.plain)


def _say(value: object) -> str:
    if isinstance(value, str):
        return f"the text {_short(value)}"
    return _WORDS.get(type(value)) or f"{value!r:.60}"


def _short(text: str) -> str:
    return repr(text if len(text) <= _LONGEST_QUOTE else f"{text[:_LONGEST_QUOTE]}...")


def _cure(kind: str, entry: Entry, section: type[BaseModel] | None) -> str:
    if kind == "string_type" and isinstance(entry.plain, bool | int | float):
        return f'put it in quotes: "{entry.text:.60}"'
    if kind == "tuple_type" and entry.plain is not None:
        return "write it as a list: [ ... ]"
    if kind in {"int_type", "float_type"} and isinstance(entry.plain, str) and entry.plain.isdigit():
        return "write it without quotes"
    if kind == "model_type" and section is not None:
        return f"valid keys here: {', '.join(_keys(section))}"
    return "remove the key, or give it a value" if entry.plain is None else ""


def _keys(section: type[BaseModel] | None) -> list[str]:
    implied = getattr(section, "implied", ())
    return [name for name in _fields(section) if name not in implied] if section else []


def _fields(section: type[BaseModel]) -> dict[str, Any]:
    """Give the annotations of a section's fields, by the names that YAML uses."""
    return {str(field.validation_alias or name): field.annotation for name, field in section.model_fields.items()}


def _section(loc: Sequence[str | int]) -> type[BaseModel] | None:
    """Find the model that pydantic was filling at `loc`, by following the annotations of Config."""
    here: list[Any] = [Config]
    for part in loc:
        inside = [inner for outer in here for inner in _inside(outer, part)]
        # What no annotation knows is the tag of a union's branch: the name of the model that it chose.
        here = inside or [branch for branch in here if getattr(branch, "__name__", "") == part] or here
    models = [each for each in here if isinstance(each, type) and issubclass(each, BaseModel)]
    return models[0] if models else None


def _inside(annotation: Any, part: str | int) -> list[Any]:  # noqa: ANN401 -- annotations have no common type
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = _fields(annotation)
        return _branches(fields[part]) if isinstance(part, str) and part in fields else []
    if get_origin(annotation) is dict and isinstance(part, str):
        return _branches(get_args(annotation)[1])
    if get_origin(annotation) is tuple and isinstance(part, int):
        return _branches(get_args(annotation)[0])
    return []


def _branches(annotation: Any) -> list[Any]:  # noqa: ANN401 -- annotations have no common type
    """List what an annotation stands for, without Annotated, unions and None."""
    if hasattr(annotation, "__metadata__"):
        return _branches(annotation.__origin__)
    if get_origin(annotation) in {Union, UnionType}:
        return [branch for part in get_args(annotation) for branch in _branches(part)]
    return [] if annotation is type(None) or get_origin(annotation) is Literal else [annotation]
