"""Count the multiply-adds of an ONNX graph at given sizes, and the bytes that it moves (in a worker).

Counted are the operators that do the work in most networks. What is not counted is named: a total that leaves out
something says so.
"""

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tasks.core.frozen import Frozen
from tasks.sources.onnx_graph import load_graph
from tasks.sources.onnx_shapes import Tensors, infer

if TYPE_CHECKING:
    import onnx

Shape: TypeAlias = tuple[int, ...]

_RECURRENT = ("LSTM", "GRU", "RNN")
_WEIGHTS_AND_RECURRENCE = 2  # W and R: each is a matrix for every gate
_PAIR = 2


class FlopsRequest(Frozen):
    """A graph, and the size of each of its named dims."""

    model: Path
    sizes: dict[str, int]


class ModelFacts(Frozen):
    """What a graph costs at `sizes`.

    One multiply-add is two FLOPs. `not_counted` are operators that compute but are not counted, `unknown` nodes of
    counted operators whose shapes are not known. `moved_bytes` is what all nodes read and write, weights included, as
    if nothing were fused or cached; None where some shape is not known.
    """

    sizes: dict[str, int]
    parameters: int
    weight_bytes: int
    multiply_adds: int
    by_operator: dict[str, int]
    not_counted: dict[str, int]
    unknown: tuple[str, ...] = ()
    moved_bytes: int | None = None


def count_flops(request: FlopsRequest) -> ModelFacts:
    """Count; the weights need not be loaded."""
    model = load_graph(request.model)
    tensors = infer(model, request.sizes)
    counted: Counter[str] = Counter()
    passed_over: Counter[str] = Counter()
    unknown: list[str] = []
    for node in model.graph.node:
        count = _COUNTED.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if count is None:
            passed_over[node.op_type] += node.op_type not in _FREE
            continue
        found = count(node, [tensors.shape(name) for name in node.input], tensors.shape(node.output[0]))
        if found is None:
            unknown.append(f"{node.op_type} {node.name}".rstrip())
        else:
            counted[node.op_type] += found
    weights = model.graph.initializer
    sizes = [tensors.bytes_of(tensor.name) or 0 for tensor in weights]
    return ModelFacts(
        sizes=request.sizes,
        parameters=sum(math.prod(tensor.dims) for tensor in weights if _is_parameter(tensor)),
        weight_bytes=sum(sizes),
        multiply_adds=counted.total(),
        by_operator=dict(counted.most_common()),
        not_counted=dict((+passed_over).most_common()),
        unknown=tuple(unknown),
        moved_bytes=_moved(model, tensors),
    )


def _is_parameter(tensor: "onnx.TensorProto") -> bool:
    """Integers of a folded graph are shapes and indices; a quantised weight is a matrix."""
    from onnx import TensorProto

    whole = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
    return tensor.data_type not in whole and bool(math.prod(tensor.dims))


def _moved(model: "onnx.ModelProto", tensors: Tensors) -> int | None:
    moved = 0
    for node in model.graph.node:
        for name in filter(None, (*node.input, *node.output)):
            size = tensors.bytes_of(name)
            if size is None:
                return None
            moved += size
    return moved


def _conv(_: "onnx.NodeProto", inputs: list[Shape | None], output: Shape | None) -> int | None:
    """Each output value takes one multiply-add for each weight of its filter."""
    weight = inputs[1]
    return math.prod(output) * math.prod(weight[1:]) if output and weight else None


def _conv_transpose(_: "onnx.NodeProto", inputs: list[Shape | None], output: Shape | None) -> int | None:
    """Each input value takes one multiply-add for each weight that it is spread by."""
    del output
    data, weight = inputs[:2]
    return math.prod(data) * math.prod(weight[1:]) if data and weight else None


def _gemm(node: "onnx.NodeProto", inputs: list[Shape | None], output: Shape | None) -> int | None:
    turned = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    left = inputs[0]
    return math.prod(output) * left[0 if turned else 1] if output and left else None


def _matmul(_: "onnx.NodeProto", inputs: list[Shape | None], output: Shape | None) -> int | None:
    left = inputs[0]
    return math.prod(output) * left[-1] if output is not None and left else None


def _recurrent(node: "onnx.NodeProto", inputs: list[Shape | None], output: Shape | None) -> int | None:
    """Each step of each sequence takes all weights of both directions once."""
    del output
    data, *matrices = inputs[: 1 + _WEIGHTS_AND_RECURRENCE]
    if data is None or None in matrices:
        return None
    batch_first = any(attribute.name == "layout" and attribute.i for attribute in node.attribute)
    steps, batch = (data[1], data[0]) if batch_first else (data[0], data[1])
    return steps * batch * sum(math.prod(matrix) for matrix in matrices if matrix)


def _einsum(node: "onnx.NodeProto", inputs: list[Shape | None], output: Shape | None) -> int | None:
    """Count the product of the sizes of all letters, for a product of two."""
    del output
    equation = next(attribute.s.decode() for attribute in node.attribute if attribute.name == "equation")
    terms = [term.strip() for term in equation.partition("->")[0].split(",")]
    if len(terms) != len(inputs) or len(terms) != _PAIR or "." in equation:
        return None
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, inputs, strict=True):
        if shape is None or len(term) != len(shape):
            return None
        sizes.update(zip(term, shape, strict=True))
    return math.prod(sizes.values())


_Count: TypeAlias = Callable[["onnx.NodeProto", list[Shape | None], Shape | None], int | None]
_COUNTED: dict[str, _Count] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "MatMul": _matmul,
    **dict.fromkeys(_RECURRENT, _recurrent),
    "Einsum": _einsum,
}
# Moves, names or reshapes what is there: no arithmetic that a total could lack.
_FREE = frozenset(
    {
        "Cast", "Concat", "Constant", "ConstantOfShape", "Expand", "Flatten", "Gather", "GatherElements", "GatherND",
        "Identity", "Pad", "Range", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Tile", "Transpose",
        "Unsqueeze",
    }
)  # fmt: skip
