"""What of a graph an engine is compiled for, weights apart: where it is the same, new weights fit the old engine."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

# Inputs that decide shapes or are compiled into kernels, by position: an engine has no weight to put them into.
# Scales of Q/DQ are among them: TensorRT fuses them into the kernels that they stand around.
_COMPILED_IN: dict[str, range] = {
    "QuantizeLinear": range(1, 3),
    "DequantizeLinear": range(1, 3),
    "Resize": range(1, 4),
    "Upsample": range(1, 2),
    "Clip": range(1, 3),
    "Pad": range(1, 4),
    "Range": range(3),
    "OneHot": range(1, 3),
}


def structure_of(model: "onnx.ModelProto", folder: Path) -> str:
    """sha256 of names, operators, attributes, types and shapes, and of the values of all that is no weight.

    `folder` is where the model's external data lies.
    """
    weights = _weights(model)
    digest = hashlib.sha256()
    for part in _parts(model, weights, folder):
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return digest.hexdigest()


def weight_names(model: "onnx.ModelProto") -> frozenset[str]:
    """Initializers whose values are no part of the structure."""
    return _weights(model)


def _parts(model: "onnx.ModelProto", weights: frozenset[str], folder: Path) -> Iterator[bytes]:
    graph = model.graph
    yield ";".join(sorted(f"{entry.domain}={entry.version}" for entry in model.opset_import)).encode()
    for function in model.functions:
        yield function.SerializeToString(deterministic=True)
    for value in (*graph.input, *graph.output):
        yield _undocumented(value)
    for node in graph.node:
        yield _undocumented(node)
    for tensor in sorted(graph.initializer, key=lambda tensor: tensor.name):
        yield f"{tensor.name}:{tensor.data_type}:{list(tensor.dims)}".encode()
        if tensor.name not in weights:
            yield _values(tensor, folder)
    for sparse in graph.sparse_initializer:
        yield sparse.SerializeToString(deterministic=True)


def _undocumented(part: "onnx.NodeProto | onnx.ValueInfoProto") -> bytes:
    """A node or value without what only tells: an exporter's notes hold line numbers."""
    bare = type(part)()
    bare.CopyFrom(part)
    bare.ClearField("doc_string")
    bare.ClearField("metadata_props")
    return bytes(bare.SerializeToString(deterministic=True))


def _values(tensor: "onnx.TensorProto", folder: Path) -> bytes:
    from onnx.numpy_helper import to_array

    return bytes(to_array(tensor, str(folder)).tobytes())


def _weights(model: "onnx.ModelProto") -> frozenset[str]:
    """Floating-point initializers of more than one element that only the main graph reads, and reads as numbers."""
    import onnx

    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}
    learned = {t.name for t in model.graph.initializer if t.data_type in floats and _elements(t) > 1}
    compiled_in = {name for node in model.graph.node for name in _compiled_in(node)}
    return frozenset(learned - compiled_in - {value.name for value in model.graph.output})


def _compiled_in(node: "onnx.NodeProto") -> Iterator[str]:
    positions = _COMPILED_IN.get(node.op_type, range(0))
    yield from (name for position, name in enumerate(node.input) if position in positions)
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs):
            for inner in body.node:
                yield from inner.input
                yield from _compiled_in(inner)


def _elements(tensor: "onnx.TensorProto") -> int:
    count = 1
    for size in tensor.dims:
        count *= size
    return count
