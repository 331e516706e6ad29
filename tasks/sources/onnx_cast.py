"""Cast a graph to a 16-bit type with ModelOpt's AutoCast (in a worker of its own)."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.core.errors import StepError
from tasks.core.frozen import Frozen
from tasks.core.tensors import load_batches
from tasks.sources.onnx_graph import GraphFacts, load_graph, read_facts

if TYPE_CHECKING:
    import onnx

# AutoCast keeps a node in fp32 where real data drives it above its limit; a few batches show the range.
RANGE_BATCHES = 8
_MESSAGE_LENGTH = 300


class CastRequest(Frozen):
    """A graph to cast, and the feeds on which AutoCast looks at ranges."""

    model: Path
    kind: Literal["fp16", "bf16"]
    golden: Path
    calibration: Path | None
    exclude_nodes: tuple[str, ...]
    exclude_op_types: tuple[str, ...]
    folder: Path


class TypedMetrics(Frozen):
    """A typed graph: how many nodes compute in the lower precision, and how many casts or Q/DQ pairs it took."""

    facts: GraphFacts
    casts: int
    quantize_nodes: int
    low_precision_initializers: int
    low_precision_casts: int

    @property
    def lowered(self) -> int:
        """How much of the graph is in a lower precision; a graph may hold other casts of its own."""
        return self.low_precision_initializers + self.low_precision_casts


def cast_graph(request: CastRequest) -> TypedMetrics:
    """Write the typed model.onnx; inputs and outputs keep their dtypes."""
    import onnx

    source = typed_metrics(load_graph(request.model))
    model = _cast(request)
    del model.graph.value_info[:]  # AutoCast leaves entries that contradict the graph, and sessions then fail
    typed = typed_metrics(model)
    if typed.lowered <= source.lowered:
        raise StepError(
            f"{request.kind} changed nothing: every node stayed in fp32", "take it out of `precisions`, or exclude less"
        )
    external = bool(source.facts.external_files)
    path, data = request.folder / "model.onnx", "model.onnx.data" if external else None
    onnx.save_model(model, str(path), save_as_external_data=external, location=data)
    return typed


def _cast(request: CastRequest) -> "onnx.ModelProto":
    from modelopt.onnx.autocast import convert_to_mixed_precision

    private = request.folder / "scratch" / "source"  # ModelOpt may write to its input
    shutil.copytree(request.model.parent, private, ignore=shutil.ignore_patterns("*.json", ".*"))
    try:
        model: onnx.ModelProto = convert_to_mixed_precision(
            str(private / request.model.name),
            low_precision_type=request.kind,
            keep_io_types=True,
            nodes_to_exclude=list(request.exclude_nodes),
            op_types_to_exclude=list(request.exclude_op_types),
            calibration_data=str(_range_data(request)),
        )
    except Exception as error:
        said = " ".join(str(error).split())[:_MESSAGE_LENGTH]
        raise StepError(
            f"AutoCast cannot cast this graph to {request.kind}: {type(error).__name__}: {said}",
            f"leave {request.kind} out of `precisions`, or let the run pass without it: "
            f"{{{request.kind}: {{optional: true}}}}",
        ) from error
    return model


def _range_data(request: CastRequest) -> Path:
    """Golden and calibration batches as AutoCast reads them: one npz file a batch."""
    import numpy as np

    folder = request.folder / "scratch" / "ranges"
    folder.mkdir(parents=True)
    batches = load_batches(request.golden)
    batches += load_batches(request.calibration)[:RANGE_BATCHES] if request.calibration else []
    for index, batch in enumerate(batches):
        arrays = {name: np.asarray(array) for name, array in batch.items()}
        np.savez(folder / f"{index:05d}.npz", **arrays)  # type: ignore[arg-type]
    return folder


def typed_metrics(model: "onnx.ModelProto") -> TypedMetrics:
    """Count what makes a graph typed."""
    import onnx

    low = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    facts = read_facts(model)
    return TypedMetrics(
        facts=facts,
        casts=facts.operators.get("Cast", 0),
        quantize_nodes=facts.operators.get("QuantizeLinear", 0),
        low_precision_initializers=sum(tensor.data_type in low for tensor in model.graph.initializer),
        low_precision_casts=sum(_casts_to(node) in low for node in model.graph.node),
    )


def _casts_to(node: "onnx.NodeProto") -> int | None:
    """The type that a Cast node gives, None for any other node."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
