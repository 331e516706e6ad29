"""Take the user's ONNX file as the source: check it, copy it, run it unoptimised (in a worker)."""

import shutil
from pathlib import Path

from tasks.core.frozen import Frozen
from tasks.core.sets import EVALUATION_OUTPUTS, GOLDEN_OUTPUTS
from tasks.core.tensors import load_batches, save_batches
from tasks.runtimes.onnxruntime import run_unoptimised
from tasks.sources.onnx_graph import ExportReply, GraphFacts, check_graph, external_files, load_graph, read_facts


class InspectRequest(Frozen):
    """An ONNX file to look at."""

    model: Path


class OnnxImportRequest(Frozen):
    """An ONNX file to take over; `golden` and `evaluation` are batches to run it on."""

    model: Path
    golden: Path
    evaluation: Path | None
    folder: Path


def inspect_onnx(request: InspectRequest) -> GraphFacts:
    """Read the facts of a model after checking that it is valid."""
    model = load_graph(request.model)
    check_graph(request.model)
    return read_facts(model)


def import_onnx(request: OnnxImportRequest) -> ExportReply:
    """Copy the model with its external data, and keep its unoptimised outputs as the source framework's."""
    model = load_graph(request.model)
    path = request.folder / "model.onnx"
    for name in external_files(model):
        shutil.copyfile(request.model.parent / name, request.folder / name)  # a link would let the user edit the store
    shutil.copyfile(request.model, path)
    outputs = run_unoptimised(path, load_batches(request.golden))
    save_batches(request.folder / GOLDEN_OUTPUTS, outputs)
    if request.evaluation is not None:
        outputs = run_unoptimised(path, load_batches(request.evaluation))
        save_batches(request.folder / EVALUATION_OUTPUTS, outputs)
    return ExportReply(facts=read_facts(model))
