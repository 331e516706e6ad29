"""YAML text as a tree of plain values that know their line: read safely, whatever the text holds."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import yaml

from tasks.core.config_fields import Problem

Plain: TypeAlias = "bool | int | float | str | tuple[Plain, ...] | dict[str, Plain] | None"
Path: TypeAlias = tuple[str | int, ...]

MAX_DEPTH = 40
MAX_ENTRIES = 100_000

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TAG = "tag:yaml.org,2002:"
# YAML 1.1 wants a dot in a float, so that 1e-3 would be text; in YAML 1.2 it is a number.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
_INTEGER = re.compile(r"[-+]?\d[\d_]{0,99}")
_TEXT_TAGS = {f"{_TAG}{name}" for name in ("str", "timestamp", "value")}
_NUMBER_TAGS = {f"{_TAG}int", f"{_TAG}float"}


class YamlProblem(NamedTuple):
    """What the text itself, whatever it means, has wrong."""

    line: int | None
    problem: Problem


class Unreadable(Exception):  # noqa: N818 -- never shown: it carries problems to the reader of the file
    """The text is no usable YAML."""

    def __init__(self, *problems: YamlProblem) -> None:
        super().__init__(*problems)
        self.problems = problems


@dataclass(frozen=True)
class Entry:
    """One value: `line` is that of its key, `text` a scalar as it is written."""

    line: int
    plain: Plain
    text: str = ""
    children: dict[str | int, "Entry"] = field(default_factory=dict)


def read_tree(text: str) -> Entry:
    """Read one YAML document, or raise `Unreadable` with everything that is wrong."""
    try:
        _refuse_depth(text)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.MarkedYAMLError as error:
        raise Unreadable(_syntax_problem(text, error)) from error
    except yaml.reader.ReaderError as error:
        raise Unreadable(_character_problem(text, error)) from error
    except (yaml.YAMLError, ValueError) as error:
        raise Unreadable(YamlProblem(None, Problem(f"this is not YAML: {error}", "correct the file"))) from error
    if node is None:
        raise Unreadable(YamlProblem(None, Problem("the file is empty", "begin with version: 1 and pipelines:")))
    builder = _Builder()
    root = builder.entry(node, (), node.start_mark.line + 1)
    if builder.problems:
        raise Unreadable(*builder.problems)
    return root


def _refuse_depth(text: str) -> None:
    """Stop before composing what is nested so deeply that libyaml's composer would overflow the C stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_LOADER):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise Unreadable(_too_deep((), event.start_mark.line + 1 if event.start_mark else None))


def _too_deep(path: Path, line: int | None) -> YamlProblem:
    message = f"this is nested deeper than {MAX_DEPTH} levels"
    return YamlProblem(line, Problem(message, "look for an alias (*name) inside its own anchor (&name)", path))


def _syntax_problem(text: str, error: yaml.MarkedYAMLError) -> YamlProblem:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else None
    what = " ".join(part for part in (error.context, error.problem) if part)
    lines = text.splitlines()
    written = lines[line - 1] if line and line <= len(lines) else ""
    indented = written[: len(written) - len(written.lstrip())]
    cure = "check the indentation, quotes, brackets and colons at and before this line"
    if "\t" in indented or "\t" in re.split(r"[^\s:-]", written, maxsplit=1)[0]:
        cure = "YAML indents with spaces: replace the tabs of this line"
    return YamlProblem(line, Problem(f"this is not YAML: {what}", cure))


def _character_problem(text: str, error: yaml.reader.ReaderError) -> YamlProblem:
    # The error counts in bytes or in characters, as the loader goes: look for the character again.
    found = yaml.reader.Reader.NON_PRINTABLE.search(text)
    line = text.count("\n", 0, found.start()) + 1 if found else None
    what = f"the character U+{ord(found.group()):04X} is not allowed" if found else error.reason
    return YamlProblem(line, Problem(f"this is not YAML: {what}", "remove it"))


class _Builder:
    """Makes entries of YAML nodes, and collects what is wrong with them."""

    def __init__(self) -> None:
        self.problems: list[YamlProblem] = []
        self._entries = 0

    def entry(self, node: yaml.Node, path: Path, line: int) -> Entry:
        self._entries += 1
        if self._entries > MAX_ENTRIES:
            message = f"the file has more than {MAX_ENTRIES} values, counting what aliases repeat"
            raise Unreadable(YamlProblem(line, Problem(message, "look for aliases of aliases (*name)", path)))
        if len(path) > MAX_DEPTH:
            raise Unreadable(_too_deep(path[:3], line))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, line)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, path, line)
        plain = self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None
        return Entry(line, plain, node.value)

    def _sequence(self, node: yaml.SequenceNode, path: Path, line: int) -> Entry:
        self._expect_tag(node, "seq", path)
        children: dict[str | int, Entry] = {
            index: self.entry(item, (*path, index), item.start_mark.line + 1) for index, item in enumerate(node.value)
        }
        return Entry(line, tuple(child.plain for child in children.values()), children=children)

    def _mapping(self, node: yaml.MappingNode, path: Path, line: int) -> Entry:
        self._expect_tag(node, "map", path)
        merged: dict[str | int, Entry] = {}
        own: dict[str | int, Entry] = {}
        for key_node, value_node in node.value:
            key_line = key_node.start_mark.line + 1
            if key_node.tag == f"{_TAG}merge":
                for key, child in self._merge(value_node, path):
                    merged.setdefault(key, child)
                continue
            key = self._key(key_node, path)
            if key in own:
                message = f"the key {key!r} is already on line {own[key].line}"
                self._add(key_node, Problem(message, "remove one of them", (*path, key)))
                continue
            own[key] = self.entry(value_node, (*path, key), key_line)
        children = merged | own
        return Entry(line, {str(key): child.plain for key, child in children.items()}, children=children)

    def _merge(self, node: yaml.Node, path: Path) -> Iterator[tuple[str | int, Entry]]:
        """Give the keys that `<<: *name` or `<<: [*one, *other]` adds, the ones that win first."""
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        for source in sources:
            if isinstance(source, yaml.MappingNode):
                yield from self.entry(source, (*path, "<<"), source.start_mark.line + 1).children.items()
            else:
                self._add(node, Problem("'<<' merges something that is no mapping", "write <<: *name", path))

    def _key(self, node: yaml.Node, path: Path) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self._add(node, Problem("a key is a mapping or a list, expected a name", "write NAME: value", path))
            return ""
        if node.tag not in _TEXT_TAGS and not _EXPONENT.fullmatch(node.value):
            kind = node.tag.removeprefix(_TAG)
            reads = {"bool": "a truth value", "null": "nothing", "int": "a number", "float": "a number"}.get(kind, kind)
            message = f"YAML reads the key {node.value!r} as {reads}, expected a name"
            self._add(node, Problem(message, f'put it in quotes: "{node.value}"', (*path, node.value)))
        return self._text(node, path)

    def _text(self, node: yaml.ScalarNode, path: Path) -> str:
        # Without libyaml, "\ud800" is taken for a character, which no file can hold.
        text = str(node.value)
        half = re.search("[\ud800-\udfff]", text)
        if half:
            self._add(node, Problem(f"\\u{ord(half.group()):x} is half a character", "remove it", path))
        return "".join(text.split(half.group())) if half else text

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> Plain:
        text = self._text(node, path)
        if node.tag in _NUMBER_TAGS or (node.tag == f"{_TAG}str" and not node.style and _EXPONENT.fullmatch(text)):
            return _number(text)
        if node.tag == f"{_TAG}null":
            return None
        if node.tag == f"{_TAG}bool":
            return text.lower() in {"yes", "true", "on"}
        if node.tag not in _TEXT_TAGS:
            self._refuse_tag(node, path)
        return text

    def _expect_tag(self, node: yaml.Node, kind: str, path: Path) -> None:
        if node.tag != f"{_TAG}{kind}":
            self._refuse_tag(node, path)

    def _refuse_tag(self, node: yaml.Node, path: Path) -> None:
        tag = node.tag.replace(_TAG, "!!")
        self._add(node, Problem(f"the tag {tag} is not taken here", "remove the tag", path))

    def _add(self, node: yaml.Node, problem: Problem) -> None:
        self.problems.append(YamlProblem(node.start_mark.line + 1, problem))


def _number(text: str) -> int | float | str:
    """Read a number as YAML 1.2 does; 1:30, which YAML 1.1 counts in sixties, and endless digits stay text."""
    digits = text.replace("_", "")
    if _INTEGER.fullmatch(text):
        return int(digits)
    if re.fullmatch(r"[-+]?0(x[0-9a-fA-F]{1,40}|b[01]{1,160})", digits):
        return int(digits, 0)
    named = {".inf": "inf", ".nan": "nan"}.get(digits.lstrip("+-").lower(), digits.lstrip("+-"))
    try:
        return -float(named) if digits.startswith("-") else float(named)
    except ValueError:
        return text
