"""What an engine's layers are, from which ONNX nodes, in which types, and what each takes: inspector and times joined.

Reads the engine inspector's JSON of TensorRT 8.6 and 10 (`Format/Datatype`, `Bindings`) and of 11 and RTX (`Format` and
`DataType` apart, `I/O Tensors`). Where an engine was built without detail, a layer is a name alone.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic import Field

from tasks.core.errors import StepError
from tasks.core.frozen import Frozen
from tasks.runtimes.base import LayerTime

# As TensorRT calls types, in words of a sentence or as a name.
_TYPES = {
    "fp32": ("fp32", "float", "float32", "kfloat"),
    "tf32": ("tf32",),
    "fp16": ("fp16", "half", "float16", "khalf"),
    "bf16": ("bf16", "bfloat16", "kbf16"),
    "fp8": ("fp8", "float8", "kfp8"),
    "fp4": ("fp4", "float4", "kfp4"),
    "int8": ("int8", "kint8"),
    "int4": ("int4", "kint4"),
    "int32": ("int32", "kint32"),
    "int64": ("int64", "kint64"),
    "uint8": ("uint8", "kuint8"),
    "bool": ("bool", "kbool"),
}
_KNOWN = {word: name for name, words in _TYPES.items() for word in words}
_WHOLE = ("int32", "int64", "uint8", "bool")  # of indices and shapes: a layer's precision is that of its other tensors
_ONNX = "[ONNX Layer: "
# Between the names in a fused layer's name: `a + b`, `PWN(a, b)`, `{ForeignNode[a...b]}`, `a && b`, `a || b`.
_BETWEEN = re.compile(r" \+ |&&|\|\||\.\.\.|[(){}\[\],\x1e\x1f]")
_TOP = 10


class Layer(Frozen):
    """One layer of an engine: what it is, the ONNX nodes that it computes, its types, and its time.

    kind: as the library calls it. operators: of the nodes, in their order. precision: of what goes in, and of what
    comes out where that differs. reformat: it only changes how a tensor lies in memory. share: of the time of all.
    """

    name: str
    kind: str
    nodes: tuple[str, ...]
    operators: tuple[str, ...]
    precision: str
    reformat: bool
    tactic: str
    microseconds: float
    share: float


class LayerTable(Frozen):
    """The layers.json of an engine: its layers in the order in which they run.

    nodes_without_layer: of the typed graph, those of which no layer tells; they were folded, or merged into others.
    """

    schema_version: int = 1
    layers: tuple[Layer, ...]
    nodes_without_layer: tuple[str, ...]


class LayersMetrics(Frozen):
    """The layers of an engine, summed up; `top` are those that take longest, the whole table is in layers.json.

    detailed: the library told what its layers are made of. untimed, unknown: layers that have no time, and times of
    which the inspector knows no layer. at: sizes of the named dims, where there are some. reformat_share: of the time,
    spent on changing how tensors lie in memory. by_precision: shares of the time.
    """

    layers: int
    total_microseconds: float
    detailed: bool
    fused: int
    reformats: int
    reformat_share: float
    untimed: int
    unknown: int
    by_precision: dict[str, float]
    nodes: int
    nodes_without_layer: int
    top: tuple[Layer, ...]
    at: dict[str, int] = Field(default_factory=dict)


class Graph(Frozen):
    """Operators of a graph's nodes, by the nodes' names."""

    operators: dict[str, str]


def read_inspection(text: str) -> list[dict[str, Any]]:
    """The layers of an inspector's JSON; one that is a name alone has a name alone."""
    if not text.strip():
        return []
    try:
        found = json.loads(text, strict=False)  # names of 8.6 hold control characters as they are
    except ValueError as error:
        raise StepError(f"the engine inspector's JSON cannot be read: {error}", "look at inspector.json") from error
    layers = found.get("Layers", []) if isinstance(found, dict) else found
    if not isinstance(layers, list):
        raise StepError("the engine inspector's JSON has no list of layers", "look at inspector.json")
    return [layer if isinstance(layer, dict) else {"Name": str(layer)} for layer in layers]


def join(inspected: Sequence[Mapping[str, Any]], times: Sequence[LayerTime], graph: Graph) -> LayerTable:
    """One table of what the inspector says and what the profiler timed: in the engine's order, then what is left."""
    nanoseconds: dict[str, int] = {}
    for timed in times:
        nanoseconds[timed.name] = nanoseconds.get(timed.name, 0) + timed.nanoseconds
    total = sum(nanoseconds.values()) or 1
    left = dict(nanoseconds)
    layers = [_layer(found, left.pop(_name(found), 0), total, graph) for found in inspected]
    layers += [_layer({"Name": name}, taken, total, graph) for name, taken in left.items()]
    told = {node for layer in layers for node in layer.nodes}
    return LayerTable(layers=tuple(layers), nodes_without_layer=tuple(n for n in graph.operators if n not in told))


def summary(table: LayerTable, inspected: Sequence[Mapping[str, Any]], times: Sequence[LayerTime]) -> LayersMetrics:
    """Sum a table up."""
    layers, names = table.layers, {_name(found) for found in inspected}
    timed = {time.name for time in times}
    total = sum(layer.microseconds for layer in layers)
    reformats = [layer for layer in layers if layer.reformat]
    by_precision: dict[str, float] = {}
    for layer in layers:
        by_precision[layer.precision] = round(by_precision.get(layer.precision, 0.0) + layer.share, 6)
    nodes = {node for layer in layers for node in layer.nodes}
    return LayersMetrics(
        layers=len(layers),
        total_microseconds=round(total, 3),
        detailed=any("LayerType" in found for found in inspected),
        fused=sum(len(layer.nodes) > 1 for layer in layers),
        reformats=len(reformats),
        reformat_share=round(sum(layer.share for layer in reformats), 6),
        untimed=len(names - timed),
        unknown=len(timed - names),
        by_precision=by_precision,
        nodes=len(nodes),
        nodes_without_layer=len(table.nodes_without_layer),
        top=tuple(sorted(layers, key=lambda layer: -layer.microseconds)[:_TOP]),
    )


def _layer(found: Mapping[str, Any], nanoseconds: int, total: int, graph: Graph) -> Layer:
    name = _name(found)
    nodes = _nodes(name, str(found.get("Metadata", "")), graph.operators)
    kind = str(found.get("LayerType", ""))
    return Layer(
        name=name,
        kind=kind,
        nodes=nodes,
        operators=tuple(graph.operators.get(node, "") for node in nodes),
        precision=_precision(found),
        reformat=kind.lower() in ("reformat", "reformatter") or name.startswith("Reformatting CopyNode"),
        tactic=str(found.get("TacticName", "")),
        microseconds=nanoseconds / 1000,
        share=round(nanoseconds / total, 6),
    )


def _name(found: Mapping[str, Any]) -> str:
    return str(found.get("Name", ""))


def _nodes(name: str, metadata: str, known: Collection[str]) -> tuple[str, ...]:
    """The ONNX nodes of a layer: as its metadata lists them, else those that its name is made of."""
    listed = [part.partition(_ONNX)[2].rpartition("]")[0] for part in _entries(metadata)]
    found = [node for node in listed if node]
    if not found and not name.startswith("Reformatting CopyNode"):  # whose name ends in that of the layer it is for
        parts = [name, *_BETWEEN.split(name)]
        found = [part.strip() for part in parts if part.strip() in known]
    return tuple(dict.fromkeys(found))


def _entries(metadata: str) -> list[str]:
    """Each `[ONNX Layer: name]`: a separator stands between them, or nothing, and a name may hold brackets."""
    return [_ONNX + part.rstrip("\x1e\x1f ") for part in metadata.split(_ONNX)[1:]]


def _precision(found: Mapping[str, Any]) -> str:
    into, out = (_main([_type(tensor) for tensor in found.get(side) or []]) for side in ("Inputs", "Outputs"))
    if into and out and into != out:
        return f"{into} -> {out}"
    return into or out


def _main(types: Sequence[str]) -> str:
    """The type that matters of several: the first that is not of indices or shapes."""
    known = [name for name in types if name]
    return next((name for name in known if name not in _WHOLE), known[0] if known else "")


def _type(tensor: object) -> str:
    if not isinstance(tensor, Mapping):
        return ""
    told = next((tensor[key] for key in ("DataType", "Datatype", "Format/Datatype", "Format") if tensor.get(key)), "")
    words = re.split(r"[^a-z0-9]+", str(told).lower())
    return next((_KNOWN[word] for word in words if word in _KNOWN), "")
