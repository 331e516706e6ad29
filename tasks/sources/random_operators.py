"""Which operators draw random numbers: what they give is no constant, even where all that they read is one."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tasks.sources.onnx_graph import bodies_of

if TYPE_CHECKING:
    import onnx

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


def draws(node: "onnx.NodeProto") -> bool:
    """Whether a node draws random numbers, by itself or in the bodies that it holds."""
    if node.op_type == "Dropout":  # which draws only where it is told that it is trained
        return len(node.input) > 2 and bool(node.input[2])  # noqa: PLR2004 - data, ratio, training_mode
    return node.op_type in RANDOM or any(draws(inner) for body in bodies_of(node) for inner in body.node)


def random_outputs(graph: "onnx.GraphProto") -> Iterator[str]:
    """Names of the tensors that such nodes give, of the graph and of its bodies."""
    for node in graph.node:
        if draws(node):
            yield from node.output
        for body in bodies_of(node):
            yield from random_outputs(body)
