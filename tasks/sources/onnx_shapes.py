"""The shape of every tensor of a graph whose inputs have given sizes (in a worker).

One walk, node by node, with onnx's own rules. Small values that are computed from shapes are computed on the way: torch
exports reshape and expand by such. (onnx 1.21's inference of whole graphs fails on a Shape node with a start when it is
to follow values, and without that stops at the first Reshape.)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

# Values that decide shapes are short; a larger constant is a table of weights.
_LARGEST_VALUE = 1 << 12


@dataclass
class Tensors:
    """What is known: types with their shapes, and small values."""

    types: "dict[str, onnx.TypeProto]" = field(default_factory=dict)
    values: "dict[str, NDArray[np.generic]]" = field(default_factory=dict)

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The tensor's shape, None where it is not wholly known."""
        kind = self.types[name].tensor_type if name in self.types else None
        if kind is None or not kind.HasField("shape") or not all(dim.HasField("dim_value") for dim in kind.shape.dim):
            return None
        return tuple(dim.dim_value for dim in kind.shape.dim)

    def bytes_of(self, name: str) -> int | None:
        """Bytes that the tensor takes, None where its shape is not known."""
        from onnx.helper import tensor_dtype_to_np_dtype

        shape = self.shape(name)
        if shape is None:
            return None
        return math.prod(shape) * tensor_dtype_to_np_dtype(self.types[name].tensor_type.elem_type).itemsize

    def put(self, name: str, value: "NDArray[np.generic]") -> None:
        """A tensor whose value is known."""
        from onnx.helper import make_tensor_type_proto, np_dtype_to_tensor_dtype

        self.types[name] = make_tensor_type_proto(np_dtype_to_tensor_dtype(value.dtype), value.shape)
        if value.size <= _LARGEST_VALUE:
            self.values[name] = value


def infer(model: "onnx.ModelProto", sizes: Mapping[str, int]) -> Tensors:
    """Walk the graph, whose nodes are sorted; what cannot be inferred stays unknown, with all that depends on it."""
    found = Tensors()
    _begin(model, sizes, found)
    opsets = {"" if entry.domain == "ai.onnx" else entry.domain: entry.version for entry in model.opset_import}
    for node in model.graph.node:
        _infer_types(node, opsets, model, found)
        _compute(node, opsets, found)
    return found


def _begin(model: "onnx.ModelProto", sizes: Mapping[str, int], found: Tensors) -> None:
    from onnx import numpy_helper
    from onnx.helper import make_tensor_type_proto

    for value in model.graph.input:
        kind = found.types[value.name] = type(value.type)()
        kind.CopyFrom(value.type)
        for axis, dim in enumerate(kind.tensor_type.shape.dim):
            name = dim.dim_param or f"{value.name}_{axis}"  # as `read_facts` calls it
            if not dim.HasField("dim_value") and name in sizes:
                dim.dim_value = sizes[name]
    for tensor in model.graph.initializer:
        found.types[tensor.name] = make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        if math.prod(tensor.dims) <= _LARGEST_VALUE and not tensor.external_data:
            found.values[tensor.name] = numpy_helper.to_array(tensor)


def _infer_types(node: "onnx.NodeProto", opsets: dict[str, int], model: "onnx.ModelProto", found: Tensors) -> None:
    import onnx
    from onnx import numpy_helper

    types = {name: found.types[name] for name in node.input if name in found.types}
    if len(types) < len({name for name in node.input if name}):
        return
    values = {name: numpy_helper.from_array(found.values[name]) for name in node.input if name in found.values}
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets[_domain(node)], _domain(node))
        found.types.update(
            onnx.shape_inference.infer_node_outputs(
                schema, node, types, values, opset_imports=list(model.opset_import), ir_version=model.ir_version
            )
        )
    except (KeyError, onnx.defs.SchemaError, onnx.shape_inference.InferenceError):
        return  # an operator of somebody's own, or one whose shapes depend on the values


def _domain(node: "onnx.NodeProto") -> str:
    """The domain of ONNX's own operators has two names; ai.onnx.ml is another one."""
    return "" if node.domain == "ai.onnx" else node.domain


def _compute(node: "onnx.NodeProto", opsets: dict[str, int], found: Tensors) -> None:
    """Compute what is computed from small known values alone."""
    if _domain(node) or any(attribute.HasField("g") for attribute in node.attribute):
        return
    shape = found.shape(node.input[0]) if node.op_type == "Shape" else None
    if shape is not None:
        found.put(node.output[0], _slice_of(node, shape))
    elif node.op_type == "Constant" or (node.input and all(name in found.values for name in node.input if name)):
        _evaluate(node, opsets, found)


def _slice_of(node: "onnx.NodeProto", shape: tuple[int, ...]) -> "NDArray[np.generic]":
    import numpy as np

    ends = {attribute.name: attribute.i for attribute in node.attribute}
    return np.array(shape[ends.get("start", 0) : ends.get("end", len(shape))], np.int64)


def _evaluate(node: "onnx.NodeProto", opsets: dict[str, int], found: Tensors) -> None:
    from onnx.reference import ReferenceEvaluator

    sizes = [found.shape(name) for name in node.output if name]
    if any(size is not None and math.prod(size) > _LARGEST_VALUE for size in sizes):
        return
    try:
        evaluator = ReferenceEvaluator(node, opsets=opsets)
        made = evaluator.run(None, {name: found.values[name] for name in node.input if name})
    except (NotImplementedError, ValueError, TypeError, IndexError, RuntimeError):
        return  # the reference has no such operator: its output stays unknown
    for name, value in zip(node.output, made, strict=False):
        if name and hasattr(value, "dtype"):
            found.put(name, value)
