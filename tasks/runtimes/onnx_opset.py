"""Say a graph as an older parser reads it: to an older opset, without what it would pass over (in a worker).

`onnx.version_converter` cannot take Reduce*, Resize, Gelu and GroupNormalization down. What is here rewrites each
operator of opset 18 to 23 that exporters and quantisers leave, so that it computes the same; any other newer operator
is an error that names it. Whatever the opset, TensorRT 8.6 takes Shape and ignores its `start` and `end`, and finds the
size of a kernel only in the node or in an initializer.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from tasks.core.errors import CannotRun

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

_REDUCE_TAKES_AXES = 18
_PAD_AXES = 3  # index of the input
Nodes: TypeAlias = "list[onnx.NodeProto]"
_REDUCE = frozenset(
    f"Reduce{name}" for name in ("Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSum", "LogSumExp")
)
# Attributes that came with a later version, and the value at which they say what the older version does.
_NEUTRAL: dict[str, dict[str, object]] = {
    "Cast": {"saturate": 1, "round_mode": b"up"},
    "CastLike": {"saturate": 1, "round_mode": b"up"},
    "QuantizeLinear": {"saturate": 1, "block_size": 0, "output_dtype": 0, "precision": 0},
    "DequantizeLinear": {"block_size": 0, "output_dtype": 0},
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": b"stretch"},
}


def lower_opset(model: "onnx.ModelProto", opset: int, ir_version: int) -> "onnx.ModelProto":
    """Rewrite `model` in place to at most `opset`, 17 or newer; raise CannotRun where that cannot be."""
    from onnx import checker

    entry = next(entry for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    model.ir_version = min(model.ir_version, ir_version)
    graph = model.graph
    rewritten = [new for node in graph.node for new in _lowered(node, graph, entry.version)]
    del graph.node[:]
    graph.node.extend(rewritten)
    if entry.version <= opset:
        return model
    entry.version = opset
    _check_known(model, opset)
    try:
        checker.check_model(model)
    except checker.ValidationError as error:
        raise CannotRun(
            f"the graph cannot be said in opset {opset}, which this TensorRT reads: {str(error).splitlines()[0]}",
            "export with an older opset, or leave this engine out",
        ) from error
    return model


def _lowered(node: "onnx.NodeProto", graph: "onnx.GraphProto", opset: int) -> "Iterator[onnx.NodeProto]":
    if node.domain not in ("", "ai.onnx"):
        yield node
        return
    _drop_neutral(node)
    if node.op_type in _REDUCE and opset >= _REDUCE_TAKES_AXES:
        _axes_to_attribute(node, graph)
    rewrite = _REWRITES.get(node.op_type)
    yield from rewrite(node, graph) if rewrite else [node]


def _drop_neutral(node: "onnx.NodeProto") -> None:
    from onnx.helper import get_attribute_value

    for name, neutral in _NEUTRAL.get(node.op_type, {}).items():
        for attribute in list(node.attribute):
            if attribute.name != name:
                continue
            if get_attribute_value(attribute) != neutral:
                raise _newer(node, f"{name} = {get_attribute_value(attribute)!r}")
            node.attribute.remove(attribute)


def _axes_to_attribute(node: "onnx.NodeProto", graph: "onnx.GraphProto") -> None:
    """Since opset 18 Reduce* takes its axes as an input."""
    from onnx.helper import make_attribute

    keep = [attribute for attribute in node.attribute if attribute.name != "noop_with_empty_axes"]
    del node.attribute[:]
    node.attribute.extend(keep)
    if len(node.input) > 1:
        axes = _constant(graph, node.input[1], node)
        del node.input[1:]
        node.attribute.append(make_attribute("axes", [int(axis) for axis in axes.ravel()]))


def _split(node: "onnx.NodeProto", graph: "onnx.GraphProto") -> Nodes:
    """Since opset 18 `num_outputs` may say what the number of outputs says already, if the parts are equal."""
    del graph
    for attribute in list(node.attribute):
        if attribute.name == "num_outputs":
            node.attribute.remove(attribute)
    return [node]


def _pad(node: "onnx.NodeProto", graph: "onnx.GraphProto") -> Nodes:
    """Since opset 18 Pad takes the axes that it pads."""
    if len(node.input) > _PAD_AXES and node.input[_PAD_AXES]:
        raise _newer(node, "its own axes")
    del graph, node.input[_PAD_AXES:]
    return [node]


def _gelu(node: "onnx.NodeProto", graph: "onnx.GraphProto") -> Nodes:
    """Gelu, an operator since opset 20: x * 0.5 * (1 + erf(x / sqrt(2))), in the type of x."""
    import numpy as np
    from onnx.helper import get_attribute_value, make_node
    from onnx.numpy_helper import from_array

    approximate = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}.get("approximate")
    if approximate not in (None, b"none"):
        raise _newer(node, f"approximate = {approximate!r}")
    dtype = np.dtype(np.float16) if _is_half(graph, node.input[0]) else np.dtype(np.float32)
    name = node.name or node.output[0]
    for constant, number in (("root", 2**-0.5), ("one", 1.0), ("half", 0.5)):
        graph.initializer.append(from_array(np.asarray(number, dtype), f"{name}/{constant}"))
    x, inner = node.input[0], [f"{name}/{step}" for step in ("scaled", "erf", "sum", "product")]
    return [
        make_node("Mul", [x, f"{name}/root"], [inner[0]], name=f"{name}/Mul"),
        make_node("Erf", [inner[0]], [inner[1]], name=f"{name}/Erf"),
        make_node("Add", [inner[1], f"{name}/one"], [inner[2]], name=f"{name}/Add"),
        make_node("Mul", [x, inner[2]], [inner[3]], name=f"{name}/Mul_1"),
        make_node("Mul", [inner[3], f"{name}/half"], list(node.output), name=name),
    ]


def _shape(node: "onnx.NodeProto", graph: "onnx.GraphProto") -> Nodes:
    """Since opset 15 Shape gives only the sizes from `start` to `end`: the same by a Slice of all of them."""
    import numpy as np
    from onnx.helper import get_attribute_value, make_node
    from onnx.numpy_helper import from_array

    asked = {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}
    if not asked:
        return [node]
    name = node.name or node.output[0]
    bounds = {"start": asked.get("start", 0), "end": asked.get("end", np.iinfo(np.int64).max), "axis": 0}
    for bound, value in bounds.items():
        graph.initializer.append(from_array(np.array([value], np.int64), f"{name}/{bound}"))
    return [
        make_node("Shape", list(node.input), [f"{name}/all"], name=f"{name}/all"),
        make_node("Slice", [f"{name}/all", *(f"{name}/{bound}" for bound in bounds)], list(node.output), name=name),
    ]


def _conv(node: "onnx.NodeProto", graph: "onnx.GraphProto") -> Nodes:
    """Say the size of a kernel that comes by Q/DQ, which is the node's own to say."""
    from onnx.helper import make_attribute

    if all(attribute.name != "kernel_shape" for attribute in node.attribute):
        dims = _dims_behind(graph, node.input[1])
        if dims:
            node.attribute.append(make_attribute("kernel_shape", dims[2:]))
    return [node]


def _dims_behind(graph: "onnx.GraphProto", name: str) -> list[int]:
    """Sizes of the initializer that a tensor is made of by Q/DQ, none where that is something else."""
    makers = {made: node for node in graph.node for made in node.output}
    while name in makers and makers[name].op_type in ("QuantizeLinear", "DequantizeLinear"):
        name = makers[name].input[0]
    return next((list(tensor.dims) for tensor in graph.initializer if tensor.name == name), [])


def _is_half(graph: "onnx.GraphProto", tensor: str) -> bool:
    """Whether a tensor is known to be float16."""
    from onnx import TensorProto

    known = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input)}
    makers = {name: node for node in graph.node for name in node.output}
    maker = makers.get(tensor)
    if maker is not None and maker.op_type == "Cast":
        return any(a.name == "to" and a.i == TensorProto.FLOAT16 for a in maker.attribute)
    return known.get(tensor) == TensorProto.FLOAT16


_REWRITES: "dict[str, Callable[[onnx.NodeProto, onnx.GraphProto], Nodes]]" = {
    "Split": _split,
    "Pad": _pad,
    "Gelu": _gelu,
    "Shape": _shape,
    "Conv": _conv,
    "ConvTranspose": _conv,
}


def _constant(graph: "onnx.GraphProto", name: str, node: "onnx.NodeProto") -> "NDArray[np.generic]":
    from onnx.numpy_helper import to_array

    for tensor in graph.initializer:
        if tensor.name == name:
            return to_array(tensor)
    for other in graph.node:
        if other.op_type == "Constant" and other.output[0] == name:
            return to_array(other.attribute[0].t)
    raise _newer(node, "axes that are computed")


def _check_known(model: "onnx.ModelProto", opset: int) -> None:
    """Raise CannotRun for an operator that the older opset does not have."""
    from onnx import defs

    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            continue
        if not defs.has(node.op_type, opset, ""):
            raise _newer(node, "it does not exist there")


def _newer(node: "onnx.NodeProto", what: str) -> CannotRun:
    return CannotRun(
        f"{node.op_type} ({node.name or node.output[0]!r}) is not in the opset that this TensorRT reads: {what}",
        "export with an older opset, or leave this engine out",
    )
