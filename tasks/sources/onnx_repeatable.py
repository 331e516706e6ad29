"""Whether an ONNX model is a function of its inputs: no node draws random numbers or learns from what it is run on."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tasks.core.errors import UserCodeError
from tasks.sources.onnx_graph import all_nodes
from tasks.sources.random_operators import RANDOM

if TYPE_CHECKING:
    import onnx

_CURE = "export the model in evaluation mode, without noise: what is served must be a function of its inputs"
_TRAINING_INPUT = 2  # of Dropout: data, ratio, training_mode


def check_repeatable(model: "onnx.ModelProto") -> None:
    """Raise UserCodeError that names the first node that draws random numbers, or is in training mode."""
    false = set(_false_constants(model))
    given = {output.name for output in model.graph.output}
    for node in all_nodes(model):
        name = f"node {node.name or node.output[0]!r} ({node.op_type})"
        if node.op_type in RANDOM:
            raise UserCodeError(f"{name} draws random numbers: the model is not a function of its inputs", _CURE)
        if node.op_type == "Dropout" and _is_trained(node, false):
            raise UserCodeError(f"{name} is in training mode, and draws random numbers", _CURE)
        if node.op_type == "BatchNormalization" and _in_training(node) and given.intersection(node.output[1:]):
            raise UserCodeError(f"{name} is in training mode, and its running mean is an output of the model", _CURE)


def _is_trained(node: "onnx.NodeProto", false: set[str]) -> bool:
    inputs = list(node.input[_TRAINING_INPUT:])
    return bool(inputs and inputs[0]) and inputs[0] not in false


def _in_training(node: "onnx.NodeProto") -> bool:
    return any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)


def _false_constants(model: "onnx.ModelProto") -> Iterator[str]:
    """Names of constants that are false."""
    from onnx import TensorProto, numpy_helper

    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.BOOL and not numpy_helper.to_array(tensor).any():
            yield tensor.name
    for node in all_nodes(model):
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            value = node.attribute[0].t
            if value.data_type == TensorProto.BOOL and not numpy_helper.to_array(value).any():
                yield node.output[0]
