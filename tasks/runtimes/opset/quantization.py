"""QuantizeLinear and DequantizeLinear: blocks, types that are attributes, scales in other types than fp32."""

from typing import TYPE_CHECKING

from tasks.runtimes.opset.scope import Nodes, Rule, Scope, attributes, called, drop, input_of, newer, set_inputs

if TYPE_CHECKING:
    import onnx

_SCALE, _ZERO = 1, 2  # inputs


def _quantize_precision(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Since opset 23 the division may be done in another type than the scale's."""
    precision = attributes(node).get("precision", 0)
    if precision and precision != scope.dtype(node.input[_SCALE]):
        raise newer(node, f"precision = {precision}")
    drop(node, "precision")
    return [node]


def _quantize_blocks(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Since opset 21 there are blocks, and without a zero point an attribute says the type of the output."""
    import numpy as np
    from onnx import TensorProto
    from onnx.helper import tensor_dtype_to_np_dtype

    _without_blocks(node, scope)
    kind = attributes(node).get("output_dtype", 0)
    drop(node, "output_dtype")
    if input_of(node, _ZERO) or kind in (0, TensorProto.UINT8) or not isinstance(kind, int):
        return [node]
    scale = scope.constant(node.input[_SCALE])
    if scale is None:
        raise newer(node, f"output_dtype = {kind} with a scale that is computed")
    zero = scope.add(f"{called(node)}/zero_point", np.zeros(scale.shape, tensor_dtype_to_np_dtype(kind)))
    set_inputs(node, [*node.input[:_ZERO], zero])
    return [node]


def _quantize_types(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Since opset 19 fp16 is quantised by a scale in fp16; `saturate` is of float8 alone."""
    from onnx import TensorProto

    drop(node, "saturate")
    names, casts = list(node.input), []
    for index in (0, _SCALE):
        if scope.dtype(names[index]) == TensorProto.FLOAT16:
            casts.append(_to_float(node, scope, index))
            names[index] = casts[-1].output[0]
    set_inputs(node, names)
    return [*casts, node]


def _to_float(node: "onnx.NodeProto", scope: Scope, index: int) -> "onnx.NodeProto":
    from onnx import TensorProto
    from onnx.helper import make_node

    name = scope.fresh(f"{called(node)}/float_{index}")
    return make_node("Cast", [node.input[index]], [name], name=name, to=TensorProto.FLOAT)


def _without_blocks(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    size = attributes(node).get("block_size", 0)
    if size:
        raise newer(node, f"block_size = {size}")
    drop(node, "block_size")
    del scope
    return [node]


def _dequantize_output(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Since opset 23 the output may have another type than the scale."""
    kind = attributes(node).get("output_dtype", 0)
    drop(node, "output_dtype")
    return _then_cast(node, scope, kind) if kind and kind != scope.dtype(node.input[_SCALE]) else [node]


def _dequantize_types(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Since opset 19 a scale in fp16 gives fp16; in fp32 the product is exact, and rounded once."""
    from onnx import TensorProto

    if scope.dtype(node.input[_SCALE]) != TensorProto.FLOAT16:
        return [node]
    cast = _to_float(node, scope, _SCALE)
    set_inputs(node, [node.input[0], cast.output[0], *node.input[_ZERO:]])
    return [cast, *_then_cast(node, scope, TensorProto.FLOAT16)]


def _then_cast(node: "onnx.NodeProto", scope: Scope, kind: object) -> Nodes:
    from onnx.helper import make_node

    (output,) = node.output
    inner = scope.fresh(f"{called(node)}/dequantized")
    del node.output[:]
    node.output.append(inner)
    return [node, make_node("Cast", [inner], [output], name=scope.fresh(f"{called(node)}/Cast"), to=kind)]


QUANTIZE: dict[tuple[str, int], Rule] = {
    ("QuantizeLinear", 19): _quantize_types,
    ("QuantizeLinear", 21): _quantize_blocks,
    ("QuantizeLinear", 23): _quantize_precision,
}
DEQUANTIZE: dict[tuple[str, int], Rule] = {
    ("DequantizeLinear", 19): _dequantize_types,
    ("DequantizeLinear", 21): _without_blocks,
    ("DequantizeLinear", 23): _dequantize_output,
}
