"""For each version of an operator that came after opset 17: how to say it in the opset before that version.

A rule may assume that its node is right in the opset of its version, and gives nodes that are right in the one before.
What is not here is refused; a test holds the table against ONNX's own history of every operator.
"""

from typing import TYPE_CHECKING

from tasks.runtimes.opset.quantization import DEQUANTIZE, QUANTIZE
from tasks.runtimes.opset.reduction import REDUCE
from tasks.runtimes.opset.scope import Nodes, Rule, Scope, attributes, called, drop, input_of, newer, put
from tasks.runtimes.opset.sizes import pad_axes, pad_wrap, resize_axes, resize_symmetric, split
from tasks.runtimes.opset.values import gelu, is_inf, scatter_elements, scatter_nd

if TYPE_CHECKING:
    import onnx

# Versions that take more types, and differ in nothing else: what the older one does not take, `types` finds.
TYPES: dict[int, tuple[str, ...]] = {
    18: ("OptionalGetElement",),
    19: ("Constant", "Equal", "Identity", "If", "Loop", "Reshape", "Scan", "Shape", "Size"),
    20: ("ConstantOfShape", "IsNaN", "ReduceMax", "ReduceMin"),
    21: (
        *("Cast", "CastLike", "Constant", "ConstantOfShape", "Flatten", "Identity", "If", "Loop", "Pad"),
        *("QLinearMatMul", "Reshape", "Scan", "Shape", "Size", "Squeeze", "Transpose", "Unsqueeze"),
    ),
    22: (
        *("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "AveragePool", "Bernoulli", "Conv", "ConvTranspose"),
        *("Cos", "Cosh", "DeformConv", "Det", "Dropout", "Elu", "EyeLike", "GRU", "GlobalAveragePool"),
        *("GlobalLpPool", "GlobalMaxPool", "GridSample", "HardSigmoid", "HardSwish", "InstanceNormalization", "LSTM"),
        *("LpNormalization", "LpPool", "MaxPool", "MaxRoiPool", "MaxUnpool", "Mish", "Multinomial"),
        *("NegativeLogLikelihoodLoss", "RNN", "RandomNormal", "RandomNormalLike", "RandomUniform"),
        *("RandomUniformLike", "RoiAlign", "Round", "Selu", "Sin", "Sinh", "Softplus", "Softsign", "Tan"),
        "ThresholdedRelu",
    ),
    23: (
        *("Cast", "CastLike", "Constant", "ConstantOfShape", "Flatten", "Identity", "If", "Loop", "Pad", "Reshape"),
        *("Scan", "Shape", "Size", "Squeeze", "Transpose", "Unsqueeze"),
    ),
    24: (
        *("Constant", "ConstantOfShape", "DequantizeLinear", "Flatten", "Identity", "If", "Loop", "Pad"),
        *("QuantizeLinear", "Reshape", "Scan", "Shape", "Size", "SplitToSequence", "Squeeze", "TopK", "Transpose"),
        "Unsqueeze",
    ),
    25: (
        *("Cast", "CastLike", "Constant", "ConstantOfShape", "DequantizeLinear", "Flatten", "Identity", "If", "Loop"),
        *("Pad", "QuantizeLinear", "Reshape", "Scan", "Shape", "Size", "Squeeze", "Transpose", "Unsqueeze"),
    ),
}
# New operators that ONNX itself says in terms of older ones.
EXPANDED: frozenset[tuple[str, int]] = frozenset(
    {
        ("AffineGrid", 20),
        ("Attention", 23),
        ("Attention", 24),
        ("CenterCropPad", 18),
        ("GroupNormalization", 18),
        ("GroupNormalization", 21),
        ("Mish", 18),
        ("RMSNormalization", 23),
        ("RotaryEmbedding", 23),
        ("Swish", 24),
    }
)
# New operators that nothing older says.
REFUSED: frozenset[tuple[str, int]] = frozenset(
    {
        *(("BitwiseAnd", 18), ("BitwiseNot", 18), ("BitwiseOr", 18), ("BitwiseXor", 18), ("Col2Im", 18)),
        *(("DeformConv", 19), ("ImageDecoder", 20), ("RegexFullMatch", 20), ("StringConcat", 20)),
        *(("StringSplit", 20), ("TensorScatter", 24), ("BitCast", 26), ("CumProd", 26)),
    }
)


def _same(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    del scope
    return [node]


def _without(*names: str) -> Rule:
    """Attributes that say nothing of what the older version takes."""

    def rule(node: "onnx.NodeProto", scope: Scope) -> Nodes:
        del scope
        drop(node, *names)
        return [node]

    return rule


def _pool(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Dilations and, of LpPool, rounding up."""
    del scope
    given = attributes(node)
    dilations = given.get("dilations", [])
    if isinstance(dilations, list) and any(step != 1 for step in dilations):
        raise newer(node, f"dilations = {dilations}")
    drop(node, "dilations")
    if node.op_type == "LpPool":
        if given.get("ceil_mode", 0):
            raise newer(node, "ceil_mode = 1")
        drop(node, "ceil_mode")
    return [node]


_GRID_MODES = {b"linear": "bilinear", b"cubic": "bicubic", b"nearest": "nearest"}
_IMAGES = 4  # rank: before opset 20 there are no volumes


def _grid_sample(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    mode = attributes(node).get("mode", b"linear")
    if not isinstance(mode, bytes) or mode not in _GRID_MODES:
        raise newer(node, f"mode = {mode!r}")
    if any(len(scope.shape(name) or [0] * _IMAGES) != _IMAGES for name in node.input):
        raise newer(node, "it samples other than images")
    put(node, "mode", _GRID_MODES[mode])
    return [node]


def _dft(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Since opset 20 the axis is an input, and another by default."""
    name, axis = input_of(node, 2), -2
    if name:
        value = scope.constant(name)
        if value is None:
            raise newer(node, "an axis that is computed")
        axis = int(value.item())
    put(node, "axis", axis if axis >= 0 else axis + scope.rank(node, node.input[0]))
    del node.input[2:]
    return [node]


def _has_element(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    del scope
    if not input_of(node, 0):
        raise newer(node, f"no input of {called(node)!r}")
    return [node]


RULES: dict[tuple[str, int], Rule] = {
    **{(name, version): _same for version, names in TYPES.items() for name in names},
    **REDUCE,
    **QUANTIZE,
    **DEQUANTIZE,
    # Both attributes are of casts to types that the version before them does not have.
    **{(name, 19): _without("saturate") for name in ("Cast", "CastLike")},
    **{(name, 24): _without("round_mode") for name in ("Cast", "CastLike")},
    ("AveragePool", 19): _pool,
    ("DFT", 20): _dft,
    ("Gelu", 20): gelu,
    ("GridSample", 20): _grid_sample,
    ("IsInf", 20): is_inf,
    ("LpPool", 18): _pool,
    ("OptionalHasElement", 18): _has_element,
    ("Pad", 18): pad_axes,
    ("Pad", 19): pad_wrap,
    ("Resize", 18): resize_axes,
    ("Resize", 19): resize_symmetric,
    ("ScatterElements", 18): scatter_elements,
    ("ScatterND", 18): scatter_nd,
    ("Split", 18): split,
}
