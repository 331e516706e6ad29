"""Facts about an ONNX graph, and whether it is a valid one (in a worker)."""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import UserCodeError
from tasks.core.frozen import Frozen
from tasks.core.report import Observation
from tasks.core.signature import batch_dim
from tasks.runtimes.external_data import all_tensors, external_names
from tasks.sources.external_files import check_external, placeholders
from tasks.sources.source_range import SourceRange

if TYPE_CHECKING:
    import onnx

_MESSAGE_LENGTH = 300
_AGAIN = "export or copy it again"
_BEGINNING = 256
_LFS_POINTER = b"version https://git-lfs"
_ZIP = b"PK\x03\x04"
# A model begins with the number of a field, which no text has.
_TEXT = frozenset(range(0x20, 0x7F)) | frozenset(b"\t\r\n")
_QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear"})
# What runs faster on quantised inputs: Q/DQ pairs around anything else are on the way to one of these, or in vain.
COMPUTING = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "Einsum", "LSTM", "GRU", "RNN"})


class TensorFacts(Frozen):
    """Dtype and shape of an input or output; a dim without a name or size is called `<tensor>_<axis>`.

    A negative size is none: older exporters write -1 where any will do, and ONNX Runtime takes it so.
    """

    dtype: str
    shape: tuple[int | str, ...]


class GraphFacts(Frozen):
    """What a graph is: interface, opset, size, operators.

    `initializer_bytes` are those of all tensors in it: also of Constant nodes, bodies and functions. `half_bytes` are
    those of 16-bit ones. `operators` counts the nodes of bodies and functions too, `nodes` does not.
    """

    ir_version: int
    opset: int
    inputs: dict[str, TensorFacts]
    outputs: dict[str, TensorFacts]
    nodes: int
    operators: dict[str, int]
    initializer_bytes: int
    half_bytes: int = 0
    external_files: tuple[str, ...] = ()

    @property
    def batch_axes(self) -> dict[str, int]:
        """Axis of the batch, by input and output, of those that have one."""
        dim = batch_dim({name: tensor.shape for name, tensor in self.inputs.items()})
        tensors = {**self.inputs, **self.outputs}
        return {name: tensor.shape.index(dim) for name, tensor in tensors.items() if dim and dim in tensor.shape}

    @property
    def later_axes(self) -> dict[str, int]:
        """Axis of the batch, by output, where it is another one than the first."""
        return {name: axis for name, axis in self.batch_axes.items() if axis and name in self.outputs}

    @property
    def quantized(self) -> bool:
        """Whether the graph already holds Q/DQ nodes, and what they can be meant for."""
        return not _QUANTIZING.isdisjoint(self.operators) and not COMPUTING.isdisjoint(self.operators)

    @property
    def half(self) -> bool:
        """Whether most of the weights are in a 16-bit type."""
        return self.half_bytes > self.initializer_bytes / 2

    @property
    def typed(self) -> bool:
        """Whether the graph has a precision of its own already."""
        return self.quantized or self.half


class ExportReply(Frozen):
    """What an export gave, and what the user's code read for it (None where none ran).

    `exporter` is the one whose graph was taken, empty for an ONNX source; `notes` are sentences for the run's reader.
    """

    facts: GraphFacts
    observed: tuple[Observation, ...] | None = None
    range: SourceRange = SourceRange()
    exporter: str = ""
    notes: tuple[str, ...] = ()


class ExportMetrics(Frozen):
    """What an export gave, as its step reports it."""

    facts: GraphFacts
    range: SourceRange = SourceRange()
    exporter: str = ""
    notes: tuple[str, ...] = ()


def read_facts(model: "onnx.ModelProto") -> GraphFacts:
    """Collect the facts of a loaded graph; external data need not be loaded."""
    graph = model.graph
    weights = {initializer.name for initializer in graph.initializer}
    operators = Counter(node.op_type for node in all_nodes(model))
    tensors = [(tensor.data_type, _bytes_of(tensor)) for tensor in all_tensors(model)]
    return GraphFacts(
        ir_version=model.ir_version,
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        inputs={value.name: _tensor_facts(value) for value in graph.input if value.name not in weights},
        outputs={value.name: _tensor_facts(value) for value in graph.output},
        nodes=len(graph.node),
        operators=dict(sorted(operators.items())),
        initializer_bytes=sum(size for _, size in tensors),
        half_bytes=sum(size for kind, size in tensors if kind in _half_types()),
        external_files=external_names(model),
    )


def all_nodes(model: "onnx.ModelProto") -> "Iterator[onnx.NodeProto]":
    """Every node of a model: of its graph, of the bodies of control flow, of its functions."""
    yield from _nodes_in(chain(model.graph.node, *(function.node for function in model.functions)))


def _nodes_in(nodes: "Iterable[onnx.NodeProto]") -> "Iterator[onnx.NodeProto]":
    for node in nodes:
        yield node
        for body in bodies_of(node):
            yield from _nodes_in(body.node)


def bodies_of(node: "onnx.NodeProto") -> "Iterator[onnx.GraphProto]":
    """The graphs that a node of control flow holds."""
    for attribute in node.attribute:
        yield from (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs)


def _tensor_facts(value: "onnx.ValueInfoProto") -> TensorFacts:
    from onnx.helper import tensor_dtype_to_np_dtype

    if not value.type.HasField("tensor_type"):
        kind = value.type.WhichOneof("value") or "of no type"
        raise UserCodeError(
            f"{value.name!r} is {kind}, expected a tensor", "export a model that takes and gives tensors"
        )
    tensor = value.type.tensor_type
    dims = [
        dim.dim_value if dim.HasField("dim_value") and dim.dim_value >= 0 else dim.dim_param or f"{value.name}_{axis}"
        for axis, dim in enumerate(tensor.shape.dim)
    ]
    return TensorFacts(dtype=str(tensor_dtype_to_np_dtype(tensor.elem_type)), shape=tuple(dims))


def _half_types() -> tuple[int, int]:
    from onnx import TensorProto

    return TensorProto.FLOAT16, TensorProto.BFLOAT16


def _bytes_of(tensor: "onnx.TensorProto") -> int:
    import math

    from onnx.helper import tensor_dtype_to_np_dtype

    return int(math.prod(tensor.dims) * tensor_dtype_to_np_dtype(tensor.data_type).itemsize)


def load_graph(path: Path) -> "onnx.ModelProto":
    """Load the graph without its external data; raise UserCodeError when the file is not an ONNX model."""
    import onnx
    from google.protobuf.message import DecodeError

    _check_content(path)
    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise UserCodeError(
            f"{path.name} is not a whole ONNX model ({path.stat().st_size} bytes): {error}", _AGAIN
        ) from error
    if not model.graph.output:
        raise UserCodeError(f"{path.name} holds no graph ({path.stat().st_size} bytes)", _AGAIN)
    return model


def _check_content(path: Path) -> None:
    """Raise UserCodeError for a file that is something else than a model, by what it begins with."""
    if path.is_dir():
        raise UserCodeError(f"{path.name} is a folder", "name the ONNX file in it")
    with path.open("rb") as stream:
        begin = stream.read(_BEGINNING)
    if not begin:
        raise UserCodeError(f"{path.name} holds no graph (0 bytes)", _AGAIN)
    if begin.startswith(_LFS_POINTER):
        raise UserCodeError(f"{path.name} is a pointer of Git LFS, and not the model itself", "fetch it: git lfs pull")
    if begin.startswith(_ZIP):
        raise UserCodeError(f"{path.name} is a zip archive, as torch.save writes", "export the model as ONNX")
    if all(byte in _TEXT for byte in begin):
        raise UserCodeError(f"{path.name} is not a whole ONNX model: it is a text file", _AGAIN)


def check_graph(model: "onnx.ModelProto", path: Path) -> None:
    """Raise UserCodeError when the model at `path` is not valid ONNX, or what it keeps beside it is not right."""
    import onnx

    check_external(model, path)
    fit = checkable(model)
    checked = path if fit is model and not external_names(model) else placeholders(fit)
    try:
        onnx.checker.check_model(str(checked))
    except onnx.checker.ValidationError as error:
        raise UserCodeError(
            f"{path.name} is not valid ONNX: {_plain(str(error))}", "export it again, or correct what made it"
        ) from error


def checkable(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The model as onnx's checker takes it, itself where that is so.

    ONNX Runtime does without what the checker wants: a name of the graph, a shape of every output, and ONNX's own
    domain by its empty name, not as ai.onnx.
    """
    import onnx

    long = any(entry.domain == "ai.onnx" for entry in (*model.opset_import, *all_nodes(model)))
    shapeless = any(_is_shapeless(value) for value in model.graph.output)
    if model.graph.name and not long and not shapeless:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.name = copy.graph.name or "graph"
    for entry in (*copy.opset_import, *all_nodes(copy)):
        entry.domain = "" if entry.domain == "ai.onnx" else entry.domain
    for value in copy.graph.output:
        if _is_shapeless(value):
            value.type.tensor_type.shape.SetInParent()
    return copy


def _is_shapeless(value: "onnx.ValueInfoProto") -> bool:
    return value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape")


def _plain(message: str) -> str:
    text = " ".join(message.split())[:_MESSAGE_LENGTH]
    if "topologically sorted" in message:
        return f"a node uses a tensor before it is made (a cycle, or unsorted nodes): {text}"
    if "No Op registered" in message:
        return f"unknown operator: {text}"
    return text
