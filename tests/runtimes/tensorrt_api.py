"""What the code of our TensorRT runtime uses, read from its source, held against what real TensorRTs have."""

import ast
import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from pydantic import BaseModel

_DUMP = """
import importlib, json, sys
module = importlib.import_module(sys.argv[1])
public = [name for name in dir(module) if not name.startswith("_")]
members = {name: dir(getattr(module, name)) for name in public if isinstance(getattr(module, name), type)}
print(json.dumps({"version": module.__version__, "members": {"": [*public, "__version__", "__name__"], **members}}))
"""
# What values of Python, numpy, pydantic and ONNX have is no sign of TensorRT.
_PYTHON = (str, bytes, int, list, dict, set, tuple, Path, re.Pattern, re.Match, contextlib.ExitStack, os.stat_result)
_LIBRARIES = (OSError(), hashlib.sha256(), np.ndarray, np.dtype, BaseModel)
_CUDA_DRIVER = re.compile(r"cu[A-Z]\w+")
_ONNX = (
    onnx.ModelProto(),
    onnx.GraphProto(),
    onnx.NodeProto(),
    onnx.TensorProto(),
    onnx.AttributeProto(),
    onnx.ValueInfoProto(),
    onnx.TypeProto(),
    onnx.TypeProto.Tensor(),
    onnx.TensorShapeProto(),
    onnx.TensorShapeProto.Dimension(),
)


@dataclass(frozen=True)
class Api:
    """A TensorRT as it is installed: its members by class, under "" those of the module."""

    version: str
    members: dict[str, set[str]]
    texts: bytes = b""

    def classes(self, name: str) -> set[str]:
        """Where a member of that name is found."""
        return {owner for owner, members in self.members.items() if name in members}

    def calls_back(self, owner: str, name: str) -> bool:
        """Whether a class calls that method of ours; some are known by name only inside of the library."""
        return name in self.members.get(owner, set()) or (owner in self.members and name.encode() in self.texts)


def api_of(module: str, folder: Path | None = None) -> Api:
    """Import a TensorRT in a process of its own, from a folder of wheels where one is given."""
    path = {"PYTHONPATH": str(folder)} if folder else {}
    command = [sys.executable, "-c", _DUMP, module]
    said = subprocess.run(command, env={**os.environ, **path}, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(said.stdout)
    members = {owner: set(names) for owner, names in found["members"].items()}
    libraries = sorted(folder.glob(f"{module}_bindings/**/{module}.so")) if folder else []
    return Api(found["version"], members, b"".join(library.read_bytes() for library in libraries))


@dataclass(frozen=True)
class Uses:
    """Names of attributes that a module uses of values that it is handed, and its classes' methods by their base."""

    attributes: dict[str, int]
    methods: dict[tuple[str, str], int]


def uses_of(source: str) -> Uses:
    """Read a module: what hangs on names that it imports, or on `self`, is not TensorRT's, which is always a value."""
    tree = ast.parse(source)
    imported = {
        (name.asname or name.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in node.names
    }
    attributes: dict[str, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and not node.attr.startswith("_") | _is_own(node.value, imported):
            attributes.setdefault(node.attr, node.lineno)
    return Uses(attributes, dict(_methods(tree)))


def _is_own(value: ast.expr, imported: set[str]) -> bool:
    """Whether it is plain to see that a value is none of TensorRT's."""
    if isinstance(value, ast.Constant | ast.JoinedStr):
        return True
    if isinstance(value, ast.Name) and value.id in ("self", "cls"):
        return True
    while isinstance(value, ast.Attribute):
        value = value.value
    return isinstance(value, ast.Name) and value.id in imported


def names_of(sources: Iterable[str]) -> frozenset[str]:
    """What modules of our own call their functions, methods and fields."""
    found: set[str] = set()
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            match node:
                case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                    found.add(name)
                case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                    found.add(name)
    return frozenset(found)


def _methods(tree: ast.Module) -> Iterator[tuple[tuple[str, str], int]]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        bases = [base.attr for base in node.bases if isinstance(base, ast.Attribute)]
        for method in node.body:
            if isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                yield from (((base, method.name), method.lineno) for base in bases)


@dataclass(frozen=True)
class Known:
    """The real TensorRTs: runtimes that all have to have what is used of any of them, and what can build.

    `only_older` are names of an older generation that none of these has, `not_tensorrt` those of other libraries and
    our own.
    """

    runtimes: tuple[Api, ...]
    builders: tuple[Api, ...]
    only_older: frozenset[str]
    not_tensorrt: frozenset[str]

    def problems(self, file: str, source: str) -> list[str]:
        """Say of each use what is wrong with it."""
        uses = uses_of(source)
        found = [(line, self._attribute_problem(name)) for name, line in uses.attributes.items()]
        found += [(line, self._method_problem(*names)) for names, line in uses.methods.items()]
        return [f"{file}:{line}: {problem}" for line, problem in sorted(found) if problem]

    def _attribute_problem(self, name: str) -> str:
        places = [api.classes(name) for api in self.runtimes]
        if any(places):
            return self._difference(name, places)
        if any(api.classes(name) for api in self.builders) or name in self.only_older | self.not_tensorrt:
            return ""
        if any(hasattr(common, name) for common in (*_PYTHON, *_LIBRARIES, *_ONNX)):
            return ""
        if _CUDA_DRIVER.fullmatch(name):
            return ""
        versions = ", ".join(api.version for api in (*self.runtimes, *self.builders))
        return f"none of TensorRT {versions} has a member {name!r}: if it is another library's, add it to NOT_TENSORRT"

    def _difference(self, name: str, places: list[set[str]]) -> str:
        common = set.intersection(*places)
        for api, found in zip(self.runtimes, places, strict=True):
            missing = set.union(*places) - found
            if not found or (missing and not common):
                return f"TensorRT {api.version} has no {' or '.join(f'{owner}.{name}' for owner in sorted(missing))}"
        return ""

    def _method_problem(self, owner: str, name: str) -> str:
        if owner in self.only_older | self.not_tensorrt or any(api.classes(owner) == set() for api in self.runtimes):
            return ""  # an unknown base is a problem of its own; one of the builder is called back by that
        for api in self.runtimes:
            if not api.calls_back(owner, name):
                return f"TensorRT {api.version} calls no {owner}.{name}"
        return ""
