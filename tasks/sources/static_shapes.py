"""Compute the sizes that a graph reads from shapes and that no feed can change (in a worker).

Shapes are inferred from the inputs alone: what an exporter noted of inner tensors or outputs may be stale.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from tasks.sources.node_order import replace_nodes
from tasks.sources.onnx_shapes import Tensors, infer

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Value: TypeAlias = NDArray[np.generic]

_Dims: TypeAlias = Sequence[int | None]


def fold_shapes(model: "onnx.ModelProto") -> int:
    """Make initializers of sizes that are known; returns how many nodes that took the place of."""
    from onnx import numpy_helper

    graph = model.graph
    if not any(node.op_type == "Shape" and not node.domain for node in graph.node):
        return 0
    found = infer(model, {})
    shapes: dict[str, _Dims] = {}
    known: dict[str, Value] = {}
    for node in graph.node:
        if node.domain:
            continue
        dims = _dims_of(node, shapes, found)
        if dims is None:
            continue
        shapes[node.output[0]] = dims
        picked = _as_array(node, dims, found)
        if picked is not None:
            known[node.output[0]] = picked
    if known:
        replace_nodes(graph, [node for node in graph.node if node.output[0] not in known])
        graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in known.items())
    return len(known)


def _dims_of(node: "onnx.NodeProto", shapes: dict[str, _Dims], found: Tensors) -> _Dims | None:
    """The sizes that a node picks of a shape, None for any other node; sizes that only feeds decide are None."""
    if node.op_type == "Shape":
        return _shape_of(node, found)
    readers: dict[str, Callable[[onnx.NodeProto, _Dims, Tensors], _Dims | None]] = {
        "Gather": _gathered,
        "Slice": _sliced,
    }
    if node.op_type in readers and node.input[0] in shapes:
        return readers[node.op_type](node, shapes[node.input[0]], found)
    return None


def _shape_of(node: "onnx.NodeProto", found: Tensors) -> _Dims | None:
    kind = found.types.get(node.input[0])
    if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.tensor_type.shape.dim]
    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return dims[ends.get("start", 0) : ends.get("end", len(dims))]


def _gathered(node: "onnx.NodeProto", dims: _Dims, found: Tensors) -> _Dims | None:
    indices = found.values.get(node.input[1])
    if indices is None or indices.ndim > 1 or any(not -len(dims) <= int(each) < len(dims) for each in indices.flat):
        return None
    return [dims[int(each)] for each in indices.flat]


def _sliced(node: "onnx.NodeProto", dims: _Dims, found: Tensors) -> _Dims | None:
    """One slice along the only axis that a shape has, by values that are known."""
    values = [found.values.get(name) for name in node.input[1:5] if name]
    if len(node.input) < 3 or any(value is None or value.size != 1 for value in values):  # noqa: PLR2004 - the ends
        return None  # the ends are not known, or are attributes, as up to opset 9
    start, end = (int(value.flat[0]) for value in values[:2] if value is not None)
    named = dict(zip(("axes", "steps"), node.input[3:5], strict=False))
    step = int(found.values[named["steps"]].flat[0]) if named.get("steps") else 1
    return None if step == 0 else dims[start:end:step]


def _as_array(node: "onnx.NodeProto", dims: _Dims, found: Tensors) -> "Value | None":
    import numpy as np

    if any(size is None for size in dims):
        return None
    value = np.array(dims, np.int64)
    scalar = node.op_type == "Gather" and found.values[node.input[1]].ndim == 0
    return value.reshape(()) if scalar else value
