"""Take the user's ONNX file as the source: check it, copy it, run it unoptimised (in a worker)."""

import contextlib
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from tasks.core.errors import CannotRun, StepError, UserCodeError
from tasks.core.frozen import Frozen
from tasks.core.sets import EVALUATION_OUTPUTS, GOLDEN_OUTPUTS
from tasks.core.signature import Dtype, Signature
from tasks.core.tensors import Tensors, load_batches, save_batches
from tasks.runtimes.external_data import external_names
from tasks.runtimes.onnxruntime_session import open_unoptimised, run_batches
from tasks.sources.external_files import MODEL, bring_home, take_in_bodies
from tasks.sources.onnx_axes import name_axes
from tasks.sources.onnx_graph import (
    ExportReply,
    GraphFacts,
    TensorFacts,
    check_graph,
    load_graph,
    read_facts,
)
from tasks.sources.onnx_repeatable import check_repeatable
from tasks.sources.source_range import RangeRun, Source, check_numbers

if TYPE_CHECKING:
    import onnxruntime


class InspectRequest(Frozen):
    """An ONNX file to look at."""

    model: Path


class OnnxImportRequest(Frozen):
    """An ONNX file to take over; `golden` and `evaluation` are batches to run it on.

    `homes` says which file of the folder each file beside the model is, by its name there.
    """

    model: Path
    homes: dict[str, str]
    golden: Path
    evaluation: Path | None
    signature: Signature
    folder: Path


def inspect_onnx(request: InspectRequest) -> GraphFacts:
    """Read the facts of a model after checking that it is valid."""
    model = load_graph(request.model)
    check_graph(model, request.model)
    facts = read_facts(model)
    if not facts.inputs:
        raise UserCodeError(
            f"{request.model.name} takes no input: it always computes the same", "export it with inputs"
        )
    for name, tensor in facts.inputs.items():
        _check_input(name, tensor)
    for name, tensor in facts.outputs.items():
        _check_type(f"output {name!r}", tensor)
    check_repeatable(model)
    return facts


def _check_input(name: str, tensor: TensorFacts) -> None:
    """Raise UserCodeError for an input that no feeds can be made for."""
    _check_type(f"input {name!r}", tensor)
    if any(isinstance(size, int) and size < 1 for size in tensor.shape):
        raise UserCodeError(
            f"input {name!r} has the shape {list(tensor.shape)}: it has no elements",
            "export it with its real sizes, or with named dims",
        )


def _check_type(what: str, tensor: TensorFacts) -> None:
    """Raise UserCodeError for a type that numpy, and so parity, does not have."""
    known: tuple[str, ...] = get_args(Dtype)
    if tensor.dtype not in known:
        kind = "text (string)" if tensor.dtype == "object" else tensor.dtype
        raise UserCodeError(f"{what} holds {kind}, expected {', '.join(known)}", "convert it inside the model")


def import_onnx(request: OnnxImportRequest) -> ExportReply:
    """Copy the model to its external data, and keep its unoptimised outputs as the source framework's."""
    model = load_graph(request.model)
    path = request.folder / MODEL
    inside = take_in_bodies(model, request.model.parent)
    moved, named = bring_home(model, request.homes), name_axes(model, request.signature)
    if inside or moved or named:
        path.write_bytes(model.SerializeToString())
    else:
        shutil.copyfile(request.model, path)
    for name in set(request.homes.values()) - set(external_names(model)):
        (request.folder / name).unlink()
    return ExportReply(facts=read_facts(model), range=_run_all(request, path).save(request.folder))


def _run_all(request: OnnxImportRequest, path: Path) -> RangeRun:
    """Keep what the model computes on the golden and evaluation batches, and over the declared range."""
    session = _opened(request, path)
    for name, feeds in ((GOLDEN_OUTPUTS, request.golden), (EVALUATION_OUTPUTS, request.evaluation)):
        if feeds is not None:
            outputs = [_outputs(request, session, path, batch) for batch in load_batches(feeds)]
            check_numbers(outputs, request.model.name)
            save_batches(request.folder / name, outputs)
    golden = load_batches(request.golden)[0]
    return Source(partial(_plain_outputs, session), golden, request.signature, request.model.name).run_range()


def _plain_outputs(session: "onnxruntime.InferenceSession", feeds: Tensors) -> Tensors:
    return run_batches(session, [feeds])[0]


def _opened(request: OnnxImportRequest, path: Path) -> "onnxruntime.InferenceSession":
    with _blaming(request, path):
        return open_unoptimised(path)


def _outputs(
    request: OnnxImportRequest, session: "onnxruntime.InferenceSession", path: Path, feeds: Tensors
) -> Tensors:
    with _blaming(request, path):
        return run_batches(session, [feeds])[0]


@contextlib.contextmanager
def _blaming(request: OnnxImportRequest, path: Path) -> Iterator[None]:
    """Turn a failure of the runtime into one of the user's model."""
    try:
        yield
    except StepError as error:
        cure = error.cure or "export it again, or correct what made it"
        if isinstance(error, CannotRun):  # its cure is that of a precision, and this is the source
            cure = f"its opset is {read_facts(load_graph(path)).opset}: export it with a newer one, or other operators"
        raise UserCodeError(f"{request.model.name} does not run: {error.message}", cure, error.detail) from error
