"""Facts about an ONNX graph, and whether it is a valid one (in a worker)."""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import UserCodeError
from tasks.core.frozen import Frozen
from tasks.core.report import Observation
from tasks.core.signature import batch_dim
from tasks.runtimes.external_data import external_names
from tasks.sources.external_files import check_external, placeholders
from tasks.sources.source_range import SourceRange

if TYPE_CHECKING:
    import onnx

_MESSAGE_LENGTH = 300
_QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear"})


class TensorFacts(Frozen):
    """Dtype and shape of an input or output; a dim without a name or size is called `<tensor>_<axis>`.

    A negative size is none: older exporters write -1 where any will do, and ONNX Runtime takes it so.
    """

    dtype: str
    shape: tuple[int | str, ...]


class GraphFacts(Frozen):
    """What a graph is: interface, opset, size, operators; `half_bytes` are those of 16-bit initializers."""

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
        """Whether the graph already holds Q/DQ nodes."""
        return not _QUANTIZING.isdisjoint(self.operators)

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
    operators: dict[str, int] = {}
    for node in graph.node:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    return GraphFacts(
        ir_version=model.ir_version,
        opset=next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0),
        inputs={value.name: _tensor_facts(value) for value in graph.input if value.name not in weights},
        outputs={value.name: _tensor_facts(value) for value in graph.output},
        nodes=len(graph.node),
        operators=dict(sorted(operators.items())),
        initializer_bytes=sum(_bytes_of(tensor) for tensor in graph.initializer),
        half_bytes=sum(_bytes_of(tensor) for tensor in graph.initializer if tensor.data_type in _half_types()),
        external_files=external_names(model),
    )


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

    try:
        model = onnx.load(str(path), load_external_data=False)
    except DecodeError as error:
        raise UserCodeError(
            f"{path.name} is not a whole ONNX model ({path.stat().st_size} bytes): {error}", "export or copy it again"
        ) from error
    if not model.graph.output:
        raise UserCodeError(f"{path.name} holds no graph ({path.stat().st_size} bytes)", "export or copy it again")
    return model


def check_graph(model: "onnx.ModelProto", path: Path) -> None:
    """Raise UserCodeError when the model at `path` is not valid ONNX, or what it keeps beside it is not right."""
    import onnx

    check_external(model, path)
    checked = placeholders(model) if external_names(model) else path
    try:
        onnx.checker.check_model(str(checked))
    except onnx.checker.ValidationError as error:
        raise UserCodeError(
            f"{path.name} is not valid ONNX: {_plain(str(error))}", "export it again, or correct what made it"
        ) from error


def _plain(message: str) -> str:
    text = " ".join(message.split())[:_MESSAGE_LENGTH]
    if "topologically sorted" in message:
        return f"a node uses a tensor before it is made (a cycle, or unsorted nodes): {text}"
    if "No Op registered" in message:
        return f"unknown operator: {text}"
    return text
