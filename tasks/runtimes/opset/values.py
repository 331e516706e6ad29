"""Operators that compute or place values: Gelu, IsInf, and scatters that keep the larger or the smaller."""

import math
from typing import TYPE_CHECKING, Any

from tasks.runtimes.opset.scope import Nodes, Scope, attributes, called, newer, put

if TYPE_CHECKING:
    import onnx

    from tasks.runtimes.opset.scope import Array

_CHOICES = {b"max": "Max", b"min": "Min"}


def gelu(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Gelu as exporters write it, and TensorRT fuses it: x * (1 + inner(x)) * 0.5, in the type of x."""
    if not scope.dtype(node.input[0]):
        raise newer(node, f"the type of {node.input[0]!r} is not known")
    by_tanh = attributes(node).get("approximate", b"none") == b"tanh"
    x, name = node.input[0], called(node)
    nodes = _by_tanh(node, scope) if by_tanh else _by_erf(node, scope)
    total, product = (scope.fresh(f"{name}/{step}") for step in ("sum", "product"))
    return [
        *nodes,
        _step("Add", [nodes[-1].output[0], _like(node, scope, 1.0)], total),
        _step("Mul", [x, total], product),
        _step("Mul", [product, _like(node, scope, 0.5)], node.output[0], name=name),
    ]


def _by_erf(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Erf of x / sqrt(2)."""
    scaled, erf = (scope.fresh(f"{called(node)}/{step}") for step in ("scaled", "erf"))
    return [_step("Mul", [node.input[0], _like(node, scope, 2**-0.5)], scaled), _step("Erf", [scaled], erf)]


def _by_tanh(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Tanh of sqrt(2 / pi) * (x + 0.044715 * x ** 3)."""
    steps = ("cubed", "share", "bent", "scaled", "tanh")
    cubed, share, bent, scaled, tanh = (scope.fresh(f"{called(node)}/{step}") for step in steps)
    return [
        _step("Pow", [node.input[0], _like(node, scope, 3.0)], cubed),
        _step("Mul", [cubed, _like(node, scope, 0.044715)], share),
        _step("Add", [node.input[0], share], bent),
        _step("Mul", [bent, _like(node, scope, math.sqrt(2 / math.pi))], scaled),
        _step("Tanh", [scaled], tanh),
    ]


def _step(op_type: str, inputs: list[str], made: str, name: str = "") -> "onnx.NodeProto":
    from onnx.helper import make_node

    return make_node(op_type, inputs, [made], name=name or made)


def _like(node: "onnx.NodeProto", scope: Scope, number: float) -> str:
    """A number in the type of the node's input."""
    import numpy as np
    from onnx.helper import tensor_dtype_to_np_dtype

    dtype = tensor_dtype_to_np_dtype(scope.dtype(node.input[0]))
    return scope.add(f"{called(node)}/number", np.asarray(number, dtype))


def is_inf(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Since opset 20 of fp16 too, which fp32 holds exactly."""
    from onnx import TensorProto
    from onnx.helper import make_node

    if scope.dtype(node.input[0]) != TensorProto.FLOAT16:
        return [node]
    wide = scope.fresh(f"{called(node)}/float")
    cast = make_node("Cast", [node.input[0]], [wide], name=wide, to=TensorProto.FLOAT)
    node.input[0] = wide
    return [cast, node]


def scatter_elements(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Since opset 18 the larger or the smaller value may stay."""
    import numpy as np

    if attributes(node).get("reduction", b"none") not in _CHOICES:
        return [node]
    axis = attributes(node).get("axis", 0)
    indices = _known_indices(node, scope)
    ordered = np.sort(indices, axis=axis) if isinstance(axis, int) else indices
    if not np.diff(ordered, axis=axis if isinstance(axis, int) else 0).all():
        raise newer(node, "a reduction of several values into one place")
    return _chosen(node, scope, "GatherElements", axis=axis)


def scatter_nd(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """The same for whole slices."""
    import numpy as np

    if attributes(node).get("reduction", b"none") not in _CHOICES:
        return [node]
    indices = _known_indices(node, scope)
    rows = indices.reshape(-1, indices.shape[-1])
    if len(np.unique(rows, axis=0)) < len(rows):
        raise newer(node, "a reduction of several values into one place")
    return _chosen(node, scope, "GatherND")


def _known_indices(node: "onnx.NodeProto", scope: Scope) -> "Array":
    """Places that are known, so that it can be seen that none comes twice."""
    indices = scope.constant(node.input[1])
    reduction = attributes(node)["reduction"]
    if indices is None or indices.astype(int).min(initial=0) < 0:
        raise newer(node, f"reduction = {reduction!r} at places that are computed, or counted from the end")
    return indices


def _chosen(node: "onnx.NodeProto", scope: Scope, gather: str, **where: Any) -> Nodes:  # noqa: ANN401 - of ONNX
    """Choose between what is there and what comes before it is placed: right where no place comes twice."""
    from onnx.helper import make_node

    name, (data, indices, updates) = called(node), node.input
    reduction = attributes(node)["reduction"]
    choice = _CHOICES[reduction] if isinstance(reduction, bytes) else ""
    there, chosen = scope.fresh(f"{name}/there"), scope.fresh(f"{name}/chosen")
    put(node, "reduction", "none")
    node.input[2] = chosen
    return [
        make_node(gather, [data, indices], [there], name=there, **where),
        make_node(choice, [there, updates], [chosen], name=chosen),
        node,
    ]
