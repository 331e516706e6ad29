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


def cast_graph(request: CastRequest) -> TypedMetrics:
    """Write the typed model.onnx; inputs and outputs keep their dtypes."""
    import onnx
    from modelopt.onnx.autocast import convert_to_mixed_precision

    private = request.folder / "scratch" / "source"  # ModelOpt may write to its input
    shutil.copytree(request.model.parent, private, ignore=shutil.ignore_patterns("*.json", ".*"))
    model = convert_to_mixed_precision(
        str(private / request.model.name),
        low_precision_type=request.kind,
        keep_io_types=True,
        nodes_to_exclude=list(request.exclude_nodes),
        op_types_to_exclude=list(request.exclude_op_types),
        calibration_data=str(_range_data(request)),
    )
    del model.graph.value_info[:]  # AutoCast leaves entries that contradict the graph, and sessions then fail
    typed = typed_metrics(model)
    if typed.low_precision_initializers == 0 and typed.casts == 0:
        raise StepError(
            f"{request.kind} changed nothing: every node stayed in fp32", "take it out of `precisions`, or exclude less"
        )
    path = request.folder / "model.onnx"
    external = bool(read_facts(load_graph(request.model)).external_files)
    onnx.save_model(model, str(path), save_as_external_data=external, location="model.onnx.data" if external else None)
    return typed


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
    )
