"""Raise the opset of a graph for a tool that needs a newer one, and check that it computes the same (in a worker).

ModelOpt raises it too, and where onnx's converter fails it merely writes another number into the graph.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import CannotRun, DoesNotApply, StepError
from tasks.core.tensors import Tensors
from tasks.runtimes.onnxruntime_session import open_unoptimised, run_batches
from tasks.sources.fold_check import first_difference, invalid
from tasks.sources.onnx_graph import load_graph, read_facts
from tasks.sources.onnx_normalise import name_all_nodes

if TYPE_CHECKING:
    import onnx

_MESSAGE_LENGTH = 200


def raise_opset(path: Path, opset: int, batches: Sequence[Tensors]) -> None:
    """Bring the graph at `path` to at least that opset, in place; `batches` are feeds to compare it on."""
    model = load_graph(path)
    before = read_facts(model).opset
    if before >= opset:
        return
    expected = run_batches(open_unoptimised(path), batches)
    reasons = []
    for raised in (_converted(model, opset), _relabelled(model, opset)):
        reason = raised if isinstance(raised, str) else _wrong(raised, path, (batches, expected))
        if not reason and not isinstance(raised, str):
            path.write_bytes(raised.SerializeToString())
            return
        reasons.append(reason)
    raise DoesNotApply(
        f"the graph is of opset {before}, this precision needs {opset}, and raising it fails: {reasons[0]}",
        f"export the model with opset {opset} or later",
    )


def _converted(model: "onnx.ModelProto", opset: int) -> "onnx.ModelProto | str":
    import onnx

    try:
        raised = onnx.version_converter.convert_version(model, opset)
    except Exception as error:  # noqa: BLE001 - it is C++, and raises what it finds
        return " ".join(str(error).split())[:_MESSAGE_LENGTH]
    name_all_nodes(raised.graph)
    del raised.graph.value_info[:]
    return raised


def _relabelled(model: "onnx.ModelProto", opset: int) -> "onnx.ModelProto":
    """The same nodes under another number: right where no operator of it changed between the two."""
    import onnx

    raised = onnx.ModelProto()
    raised.CopyFrom(model)
    for entry in raised.opset_import:
        if not entry.domain:
            entry.version = opset
    return raised


def _wrong(raised: "onnx.ModelProto", path: Path, known: tuple[Sequence[Tensors], Sequence[Tensors]]) -> str:
    before, after = read_facts(load_graph(path)), read_facts(raised)
    if (before.inputs, before.outputs) != (after.inputs, after.outputs):
        return "its inputs or outputs change"
    reason = invalid(raised)
    if reason:
        return reason
    trial = path.with_name("raised.onnx")
    trial.write_bytes(raised.SerializeToString())
    batches, expected = known
    try:
        return first_difference(run_batches(open_unoptimised(trial), batches), expected)
    except CannotRun:
        return ""  # nothing here can run it: the engine is judged where it runs
    except StepError as error:
        return f"it does not run: {' '.join(error.message.split())[:_MESSAGE_LENGTH]}"
    finally:
        trial.unlink()
