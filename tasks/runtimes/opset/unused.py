"""Take out what no output depends on: bodies of operators compute more than one call needs of them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx


def drop_unused(graph: "onnx.GraphProto") -> None:
    """Drop nodes and initializers of a sorted graph that lead to none of its outputs."""
    used = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if not used.isdisjoint(node.output):
            kept.append(node)
            used.update(_read(node))
    kept.reverse()
    weights = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(weights)


def _read(node: "onnx.NodeProto") -> Iterator[str]:
    """Names that a node and the bodies inside it read."""
    yield from (name for name in node.input if name)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield from (value.name for value in attribute.g.output)
            for inner in attribute.g.node:
                yield from _read(inner)
