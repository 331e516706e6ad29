"""Bring a typed graph to the opset that an older TensorRT reads, and compare the two (in a worker)."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from tasks.core.config_precision import PrecisionKind
from tasks.core.errors import CannotRun, StepError
from tasks.core.frozen import Frozen
from tasks.core.metrics import OutputError, compare
from tasks.core.tensors import Tensors, load_batches
from tasks.core.tolerances import AGREEMENT
from tasks.runtimes.judge import joined
from tasks.runtimes.onnxruntime_session import open_unoptimised, run_batches
from tasks.runtimes.opset.lower import lower_opset, newest_opset
from tasks.sources.onnx_graph import GraphFacts, load_graph, read_facts

MODEL = "model.onnx"


class LowerRequest(Frozen):
    """A typed graph of that kind, the opset and IR version to bring it to, and the inputs to compare it on."""

    model: Path
    kind: PrecisionKind
    opset: int
    ir_version: int
    golden: Path
    folder: Path


class LowerMetrics(Frozen):
    """The graph in the older opset. `unchanged`: it is the typed graph as it was.

    `identical`: all outputs are equal bit by bit; else `outputs` has the error of each. `not_compared` is why nothing
    was: ONNX Runtime has no kernels for it.
    """

    facts: GraphFacts
    opset_before: int
    unchanged: bool = False
    identical: bool = False
    outputs: dict[str, OutputError] = Field(default_factory=dict)
    not_compared: str = ""


def lower_graph(request: LowerRequest) -> LowerMetrics:
    """Write model.onnx, unless it is to be linked as its external data is; raise where it computes something else."""
    model = load_graph(request.model)
    before, bytes_before = newest_opset(model), model.SerializeToString(deterministic=True)
    lowered = lower_opset(model, request.opset, request.ir_version, request.model.parent)
    content = lowered.SerializeToString(deterministic=True)
    metrics = LowerMetrics(facts=read_facts(lowered), opset_before=before, unchanged=content == bytes_before)
    if metrics.unchanged:
        return metrics
    (request.folder / MODEL).write_bytes(content)
    return metrics.model_copy(update=_compared(request))


def _compared(request: LowerRequest) -> dict[str, object]:
    """Run both graphs as they are written on the same inputs."""
    batches = load_batches(request.golden)
    try:
        expected = run_batches(open_unoptimised(request.model), batches)
        lowered = open_unoptimised(request.folder / MODEL, weights=request.model.parent)
        actual = run_batches(lowered, batches)
    except CannotRun as error:
        return {"not_compared": error.message}
    if _identical(actual, expected):
        return {"identical": True}
    errors = compare(joined(actual), joined(expected))
    name = max(errors, key=lambda name: errors[name].rel_l2)
    if errors[name].rel_l2 > AGREEMENT[request.kind]:
        raise StepError(
            f"the graph in opset {request.opset} computes something else than the typed graph: output {name!r} has "
            f"rel_l2 {errors[name].rel_l2:.3g}, at most {AGREEMENT[request.kind]:g} was expected",
            "export with an older opset, or leave this engine out; tell us of the operators in it",
        )
    return {"outputs": errors}


def _identical(actual: Sequence[Tensors], expected: Sequence[Tensors]) -> bool:
    """Whether all outputs have the same types, shapes and bits, whichever NaN they hold."""
    import numpy as np

    pairs = ((ours[name], theirs[name]) for ours, theirs in zip(actual, expected, strict=True) for name in theirs)
    return all(a.dtype == b.dtype and np.array_equal(a, b, equal_nan=a.dtype.kind in "fc") for a, b in pairs)
