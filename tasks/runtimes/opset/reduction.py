"""Reductions whose axes are an input since opset 18, and which may leave a tensor as it is."""

from typing import TYPE_CHECKING

from tasks.runtimes.opset.scope import Nodes, Rule, Scope, attributes, called, drop, input_of, newer, put

if TYPE_CHECKING:
    import onnx

_NAMES = tuple(
    f"Reduce{name}" for name in ("Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
)
# What is left of each reduction where it reduces nothing: ONNX says the tensor itself, computed element by element.
_ELEMENTWISE = {"ReduceL1": "Abs", "ReduceL2": "Abs", "ReduceLogSum": "Log"}


def _reduce(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    keeps = attributes(node).get("noop_with_empty_axes", 0)
    drop(node, "noop_with_empty_axes")
    axes = _axes(node, scope)
    del node.input[1:]
    if axes:
        put(node, "axes", axes)
    return [node] if axes or not keeps else _reducing_nothing(node)


def _axes(node: "onnx.NodeProto", scope: Scope) -> list[int]:
    """The axes to reduce, none for all of them."""
    if not input_of(node, 1):
        return []
    axes = scope.constant(node.input[1])
    if axes is None:
        raise newer(node, "axes that are computed")
    return [int(axis) for axis in axes.ravel()]


def _reducing_nothing(node: "onnx.NodeProto") -> Nodes:
    from onnx.helper import make_node

    name, (x,), (y,) = called(node), node.input, node.output
    if node.op_type == "ReduceSumSquare":
        return [make_node("Mul", [x, x], [y], name=name)]
    return [make_node(_ELEMENTWISE.get(node.op_type, "Identity"), [x], [y], name=name)]


REDUCE: dict[tuple[str, int], Rule] = {(name, 18): _reduce for name in _NAMES}
