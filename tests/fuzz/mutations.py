"""Documents that are nearly right: a real one with a few things changed, in its structure, its text and its bytes."""

import copy
import json
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import yaml
from hypothesis import strategies as st

Path: TypeAlias = tuple[str | int, ...]

# Stands in a document for brackets that are nested deeper than a writer could write them.
_DEEP = "@@deep@@"
_LONG = "x" * 20_000
_ODD_TEXTS = [
    *("", " ", ".", "..", "/", "~", "-", "-f", "a/b", "a\\b", "nul\0byte", "\u202e\u0000", "\ud800", "\U0001f600", "é"),
    *("../../outside", "../../../outside/kept", "tiny/../../../outside", "tiny/build/../../../../outside"),
    *("~nobody-of-that-name/x", "file:///", "file://host/x", "nowhere://bucket/x"),
    *("1e400", "NaN", "0x10", "1:30", "yes", "null", "{}", "%s%n", "$(touch outside)", "`id`", "\r\n", "a\nb\n\nc"),
    *(_LONG, _DEEP, "fp32", "onnxruntime/fp32", "tiny", "*", "**/*", "[!.]*", "models.digits:build", "os:system"),
]
_ODD_VALUES: list[object] = [
    *(None, True, False, 0, 1, -1, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400),
    *(0.0, -0.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
    *(
        [],
        {},
        [[]],
        [None],
        [[1], "a"],
        {"": ""},
        {"a": {"b": {"c": []}}},
        ["x"] * 300,
        {str(n): n for n in range(300)},
    ),
]
_YAML_LINES = [
    *("a: &a [*a]", "<<: *nowhere", "<<: {version: 2}", "<<: [1, 2]", "? [complex, key]\n: 1", "? {a: b}\n: 1"),
    *("x: !!python/object/apply:os.system ['touch outside']", "x: !!binary aGk=", "x: !!set {a, b}", "x: !own 1"),
    *("%YAML 9.9", "---", "...", "--- !!map", "\tx: 1", "x: |\n y", "x: >-\n\n\n z", "x: 'open", 'x: "\\ud800"', "&a"),
    *("x: 2026-11-21", "x: 0o17", "x: 0b1", "x: 1_000", "x: .nan", "x: -.inf", "null: 1", "yes: 1", "1: 1", "*a : 1"),
    *("version: 1", "pipelines: {}", "store: ../../outside", "trust: [outside/kept]", "signing: {key: /dev/null}"),
    *("[" * 5000, "{a: " * 500, "- " * 2000, "x: " + "[" * 50 + "]" * 50),
    "l0: &l0 [x, x]\n" + "\n".join(f"l{n}: &l{n} [*l{n - 1}, *l{n - 1}, *l{n - 1}]" for n in range(1, 30)),
]


def odd_values(outside: str) -> st.SearchStrategy[Any]:
    """Values that are wrong, extreme, or lead to the folder `outside`."""
    return st.one_of(
        st.sampled_from([*_ODD_TEXTS, outside, f"{outside}/kept", f"{outside}/../outside"]),
        st.sampled_from(_ODD_VALUES).map(copy.deepcopy),  # what is drawn may be changed in its turn
        st.text(max_size=20),
        st.integers(),
        st.floats(),
    )


def documents(document: object, outside: str, write: Callable[[object], str]) -> st.SearchStrategy[bytes]:
    """Bytes of a document after some changes; one in a few is the text of something else altogether."""

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        tree = copy.deepcopy(document)
        for _ in range(draw(st.integers(0, 3))):
            tree = _change(draw, tree, odd_values(outside))
        text = write(tree)
        for _ in range(draw(st.sampled_from([0, 0, 0, 0, 1, 2]))):
            text = _change_text(draw, text)
        content = text.replace(f'"{_DEEP}"', "[" * 3000).replace(_DEEP, "[" * 3000).encode(errors="surrogatepass")
        return _change_bytes(draw, content) if draw(st.sampled_from([False, False, True])) else content

    return changed()


def json_text(document: object) -> str:
    """Write JSON as Python does: with NaN, infinity and half characters where there are some."""
    return json.dumps(document, indent=1)


def yaml_text(document: object) -> str:
    """Write YAML; what it has no writing for as JSON, which is YAML too."""
    try:
        return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    except (yaml.YAMLError, UnicodeError, RecursionError):
        return json_text(document)


def yaml_documents(document: object, outside: str) -> st.SearchStrategy[bytes]:
    """As `documents`, with lines in between that mean something to YAML only."""

    @st.composite
    def changed(draw: st.DrawFn) -> bytes:
        content = draw(documents(document, outside, yaml_text))
        if draw(st.sampled_from([False, False, True])):
            lines = content.split(b"\n")
            place = draw(st.integers(0, len(lines)))
            indent = " " * draw(st.sampled_from([0, 0, 2, 4, 6]))
            odd = "\n".join(indent + line for line in draw(st.sampled_from(_YAML_LINES)).split("\n"))
            content = b"\n".join([*lines[:place], odd.encode(errors="surrogatepass"), *lines[place:]])
        return content

    return changed()


def line_documents(documents_of_lines: list[object], outside: str) -> st.SearchStrategy[bytes]:
    """One JSON document a line, some of them changed."""

    def one_line(tree: object) -> str:
        return json.dumps(tree)

    lines = [documents(each, outside, one_line) | st.just(one_line(each).encode()) for each in documents_of_lines]
    return st.tuples(*lines).map(b"\n".join)


def _change(draw: st.DrawFn, tree: Any, odd: st.SearchStrategy[Any]) -> Any:  # noqa: ANN401 -- any JSON
    places = list(_places(tree))
    path = draw(st.sampled_from(places)) if places else ()
    if not path:
        return draw(odd)
    *above, last = path
    parent = _at(tree, above)
    match draw(st.sampled_from(["replace", "replace", "replace", "delete", "rename", "add", "copy"])):
        case "replace":
            parent[last] = draw(odd)
        case "delete":
            del parent[last]
        case "rename" if isinstance(parent, dict):
            parent[draw(st.sampled_from(_ODD_TEXTS) | st.text(max_size=9))] = parent.pop(last)
        case "copy":
            parent[last] = copy.deepcopy(_at(tree, draw(st.sampled_from(places))))
        case _ if isinstance(parent, dict):
            parent[draw(st.sampled_from(_ODD_TEXTS) | st.text(max_size=9))] = draw(odd)
        case _:
            parent.insert(last, draw(odd))
    return tree


def _places(tree: object, path: Path = ()) -> Iterator[Path]:
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, child in items:
        yield (*path, key)
        yield from _places(child, (*path, key))


def _at(tree: Any, path: "Path | list[str | int]") -> Any:  # noqa: ANN401 -- any JSON
    for part in path:
        tree = tree[part]
    return tree


def _change_text(draw: st.DrawFn, text: str) -> str:
    """Cut, double or move a piece: brackets that do not close, keys that are there twice."""
    begin = draw(st.integers(0, len(text)))
    end = min(len(text), begin + draw(st.integers(0, 200)))
    lines = text.split("\n")
    line = draw(st.integers(0, len(lines) - 1))
    changes = {
        "truncate": text[:begin],
        "cut": text[:begin] + text[end:],
        "double": text[:end] + text[begin:],
        "double line": "\n".join([*lines[: line + 1], *lines[line:]]),
        "CRLF": text.replace("\n", "\r\n"),
        "CR": text.replace("\n", "\r"),
        "BOM": "\ufeff" + text,
        "noise": text[:begin] + draw(st.text(max_size=8)) + text[begin:],
    }
    return changes[draw(st.sampled_from(sorted(changes)))]


def _change_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        if changed:
            changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    odd = draw(st.sampled_from([b"", b"", b"\xff\xfe", b"\xff", b"\xed\xa0\x80", b"\0", b"\xc0\xaf"]))
    place = draw(st.integers(0, len(changed)))
    return bytes(changed[:place] + odd + changed[place:])
