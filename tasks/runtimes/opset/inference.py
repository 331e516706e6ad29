"""What ONNX itself can tell of a model without its weights."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tasks.runtimes.opset.scope import Scope

if TYPE_CHECKING:
    import onnx

# Bytes of a tensor that can still say a shape.
_LARGE = 4096


def learn(scope: Scope, model: "onnx.ModelProto") -> None:
    """Infer the types of a model's tensors: what it declares of those inside may be stale, and is only second."""
    from onnx import shape_inference

    inferred = shape_inference.infer_shapes(without_weights(model, declared=False), data_prop=True)
    _copy_types(inferred.graph, model.graph)
    scope.learn(inferred.graph.value_info)


def without_weights(model: "onnx.ModelProto", *, declared: bool = True) -> "onnx.ModelProto":
    """The model with inputs in the place of its large and its external weights, whose files would be looked for.

    Without `declared`, also without the types that it declares of tensors inside.
    """
    from onnx import ModelProto, helper

    bare = ModelProto(opset_import=model.opset_import, ir_version=model.ir_version, functions=model.functions)
    graph, whole = bare.graph, model.graph
    graph.name = whole.name
    for field in ("node", "input", "output", "sparse_initializer", *(["value_info"] if declared else [])):
        getattr(graph, field).extend(getattr(whole, field))
    taken = {value.name for value in graph.input}
    for tensor in whole.initializer:
        if tensor.ByteSize() <= _LARGE and not tensor.external_data:
            graph.initializer.append(tensor)
        elif tensor.name not in taken:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for body in _bodies(graph) if not declared else ():
        del body.value_info[:]
    return bare


def _copy_types(inferred: "onnx.GraphProto", graph: "onnx.GraphProto") -> None:
    """Have the bodies inside the graph declare what was inferred of them: their scopes begin with that."""
    for found, body in zip(_bodies(inferred), _bodies(graph), strict=True):
        known = {value.name for value in found.value_info}
        kept = [value for value in body.value_info if value.name not in known]
        del body.value_info[:]
        body.value_info.extend([*found.value_info, *kept])
        for value, told in zip((*body.input, *body.output), (*found.input, *found.output), strict=True):
            value.CopyFrom(told)


def _bodies(graph: "onnx.GraphProto") -> "Iterator[onnx.GraphProto]":
    """Every body inside a graph, however deep."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
                yield from _bodies(attribute.g)
