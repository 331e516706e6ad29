"""Read the Q/DQ pairs of a quantised graph, and pass them by."""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import onnx

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


class QuantizedInput(NamedTuple):
    """An input of a node that went through a Q/DQ pair: `source` is the float tensor in front of the pair."""

    position: int
    source: str
    scale: str
    zero_point: str | None


class QuantizedNode(NamedTuple):
    """A node that computes on dequantised inputs; those whose weights are stored quantised have no source to show."""

    name: str
    op_type: str
    inputs: tuple[QuantizedInput, ...]


def quantized_nodes(model: "onnx.ModelProto") -> list[QuantizedNode]:
    """Every node that takes the output of a DequantizeLinear, in the order of the graph."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type in (QUANTIZE, DEQUANTIZE):
            continue
        dequantized = [name for name in node.input if name in makers and makers[name].op_type == DEQUANTIZE]
        if dequantized:
            pairs = tuple(_pairs(node, makers))
            found.append(QuantizedNode(node.name, node.op_type, pairs))
    return found


def _pairs(node: "onnx.NodeProto", makers: "dict[str, onnx.NodeProto]") -> Iterator[QuantizedInput]:
    for index, name in enumerate(node.input):
        dequantize = makers.get(name)
        quantize = makers.get(dequantize.input[0]) if dequantize and dequantize.op_type == DEQUANTIZE else None
        if quantize is not None and quantize.op_type == QUANTIZE:
            zero_point = quantize.input[2] if len(quantize.input) > 2 else None  # noqa: PLR2004 - data, scale, zero
            yield QuantizedInput(index, quantize.input[0], quantize.input[1], zero_point)


def named(model: "onnx.ModelProto") -> "dict[str, onnx.NodeProto]":
    """Nodes by name; folding has named them all."""
    return {node.name: node for node in model.graph.node}


def name_nodes(graph: "onnx.GraphProto", taken: set[str] | None = None) -> None:
    """Give every node that has no name, or that of an earlier one or of those `taken`, a name of its own."""
    taken = set() if taken is None else taken
    for index, node in enumerate(graph.node):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name += "_"
        node.name = name
        taken.add(name)


def bypass(model: "onnx.ModelProto", floated: Collection[str]) -> None:
    """Have the nodes `floated` compute on the float tensors in front of their Q/DQ pairs, and drop what is left over.

    Exact: the rest of the graph is untouched, and a pair that another node reads stays.
    """
    nodes = named(model)
    for quantized in quantized_nodes(model):
        if quantized.name in floated:
            for pair in quantized.inputs:
                nodes[quantized.name].input[pair.position] = pair.source
    drop_unread(model.graph)


def drop_unread(graph: "onnx.GraphProto", *, initializers: bool = True) -> None:
    """Remove Q/DQ nodes that nothing reads, and the initializers that only they read."""
    kept = {output.name for output in graph.output}
    while True:
        read = kept | {name for node in graph.node for name in node.input} | read_inside(graph)
        unread = [node for node in graph.node if _is_pair(node) and read.isdisjoint(node.output)]
        if not unread:
            break
        for node in unread:
            graph.node.remove(node)
    for initializer in [tensor for tensor in graph.initializer if initializers and tensor.name not in read]:
        graph.initializer.remove(initializer)


def free_outputs(model: "onnx.ModelProto") -> None:
    """Have a graph output that is a Q/DQ pair's be the float tensor in front of it: nothing computes on it here."""
    makers = {name: node for node in model.graph.node for name in node.output}
    for output in model.graph.output:
        dequantize = makers.get(output.name)
        quantize = makers.get(dequantize.input[0]) if dequantize and dequantize.op_type == DEQUANTIZE else None
        if dequantize is not None and quantize is not None and quantize.op_type == QUANTIZE:
            dequantize.op_type = "Identity"
            del dequantize.attribute[:]
            dequantize.input[:] = [quantize.input[0]]
    drop_unread(model.graph)


def _is_pair(node: "onnx.NodeProto") -> bool:
    return node.op_type in (QUANTIZE, DEQUANTIZE)


def read_inside(graph: "onnx.GraphProto") -> set[str]:
    """Tensors that the bodies of If, Loop and Scan nodes read; names of their own are harmless."""
    bodies = [body for node in graph.node for attribute in node.attribute for body in (attribute.g, *attribute.graphs)]
    names = {name for body in bodies for node in body.node for name in node.input}
    return names | {output.name for body in bodies for output in body.output} | set().union(*map(read_inside, bodies))
