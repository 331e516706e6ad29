"""Weights that a model keeps in files beside it: found wherever a model can hold a tensor, and read.

onnx's own reader refuses a file that has several hard links, which files of the store have; and its own list of a
model's tensors leaves out sparse ones.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import onnx


# A runtime that maps such a file into memory reads no tensor by halves of a page.
_ALIGNMENT = 4096
# Names of numpy's types that have fewer bits than a byte: int4, uint2, float4_e2m1fn.
_PACKED = re.compile(r"^u?(?:int|float)(2|4)(?:_|$)")


class Extent(NamedTuple):
    """Where a tensor's bytes lie: `length` is None where the model leaves it to the tensor's shape."""

    location: str
    offset: int
    length: int | None


def external_tensors(model: "onnx.ModelProto") -> "Iterator[onnx.TensorProto]":
    """Every tensor whose bytes lie in another file: of initializers, attributes, bodies of control flow, functions."""
    from onnx import TensorProto

    return (tensor for tensor in all_tensors(model) if tensor.data_location == TensorProto.EXTERNAL)


def all_tensors(model: "onnx.ModelProto") -> "Iterator[onnx.TensorProto]":
    """Every tensor that a model holds: of initializers, attributes, bodies of control flow, functions."""
    return chain(_of_graph(model.graph), *(_of_nodes(function.node) for function in model.functions))


def in_bodies(model: "onnx.ModelProto") -> "list[onnx.TensorProto]":
    """Those of them that lie in the bodies of If, Loop and Scan nodes."""
    from onnx import TensorProto

    bodies = chain.from_iterable(_of_graph(body) for node in model.graph.node for body in _bodies(node.attribute))
    return [tensor for tensor in bodies if tensor.data_location == TensorProto.EXTERNAL]


def external_names(model: "onnx.ModelProto") -> tuple[str, ...]:
    """Names, relative to the model's folder, of the files that hold tensors of it."""
    return tuple(sorted({extent_of(tensor).location for tensor in external_tensors(model)}))


def extent_of(tensor: "onnx.TensorProto") -> Extent:
    """Read where an external tensor lies; raise ValueError where an offset or length is no number."""
    place = {entry.key: entry.value for entry in tensor.external_data}
    length = place.get("length")
    location = str(PurePosixPath(place.get("location", "")))
    return Extent(location, int(place.get("offset", 0)), None if length is None else int(length))


def move(tensor: "onnx.TensorProto", location: str) -> None:
    """Have an external tensor name another file for the same bytes."""
    next(entry for entry in tensor.external_data if entry.key == "location").value = location


def byte_length(tensor: "onnx.TensorProto") -> int:
    """How many bytes the values of a tensor take in a file: those of four or two bits are packed."""
    import math

    from onnx.helper import tensor_dtype_to_np_dtype

    dtype = tensor_dtype_to_np_dtype(tensor.data_type)
    narrow = _PACKED.search(dtype.name)
    bits = int(narrow[1]) if narrow else 8 * int(dtype.itemsize)
    return -(-int(math.prod(tensor.dims)) * bits // 8)


def read_in(tensors: "Iterable[onnx.TensorProto]", folder: Path) -> "list[onnx.TensorProto]":
    """Bring external data into the model; returns the tensors."""
    import onnx

    found = list(tensors)
    for tensor in found:
        extent = extent_of(tensor)
        with (folder / extent.location).open("rb") as stream:
            stream.seek(extent.offset)
            tensor.raw_data = stream.read(byte_length(tensor) if extent.length is None else extent.length)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]
    return found


def write_out(tensors: "Iterable[onnx.TensorProto]", path: Path) -> None:
    """Move the bytes of tensors into a file beside their model, one behind the other."""
    import onnx

    with path.open("wb") as stream:
        for tensor in tensors:
            stream.write(b"\0" * (-stream.tell() % _ALIGNMENT))
            place = {"location": path.name, "offset": stream.tell(), "length": len(tensor.raw_data)}
            stream.write(tensor.raw_data)
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))


def _of_graph(graph: "onnx.GraphProto") -> "Iterator[onnx.TensorProto]":
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: "Iterable[onnx.NodeProto]") -> "Iterator[onnx.TensorProto]":
    for attribute in (attribute for node in nodes for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        single = (attribute.sparse_tensor,) if attribute.HasField("sparse_tensor") else ()
        for sparse in (*single, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for body in _bodies((attribute,)):
            yield from _of_graph(body)


def _bodies(attributes: "Iterable[onnx.AttributeProto]") -> "Iterator[onnx.GraphProto]":
    for attribute in attributes:
        yield from (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs)
