"""What TensorRT 8.6 passes over without a word, whatever the opset: said so that it cannot.

It takes Shape and ignores its `start` and `end`, and finds the size of a kernel only in the node or in an initializer.
"""

from typing import TYPE_CHECKING

from tasks.runtimes.opset.scope import Nodes, Rule, Scope, attributes, called, put

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

_END = 2**63 - 1


def parser_form(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """The node as the parser reads all of it."""
    rule = _FORMS.get(node.op_type)
    return rule(node, scope) if rule else [node]


def _shape(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Since opset 15 Shape gives only the sizes from `start` to `end`: the same by a Slice of all of them."""
    from onnx.helper import make_node

    asked = attributes(node)
    if not asked:
        return [node]
    name = called(node)
    start, end = (scope.add(f"{name}/{bound}", _one(asked.get(bound, otherwise))) for bound, otherwise in _BOUNDS)
    every, axis = scope.fresh(f"{name}/all"), scope.numbers(f"{name}/axis", 0)
    return [
        make_node("Shape", list(node.input), [every], name=every),
        make_node("Slice", [every, start, end, axis], list(node.output), name=name),
    ]


_BOUNDS = (("start", 0), ("end", _END))


def _one(value: object) -> "NDArray[np.int64]":
    import numpy as np

    return np.array([value], np.int64)


def _conv(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Say the size of a kernel that comes by Q/DQ, which is the node's own to say."""
    if "kernel_shape" not in attributes(node):
        dims = scope.dims_behind(node.input[1])
        if dims:
            put(node, "kernel_shape", dims[2:])
    return [node]


_FORMS: dict[str, Rule] = {"Shape": _shape, "Conv": _conv, "ConvTranspose": _conv}
