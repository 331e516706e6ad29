"""Export a torch module to ONNX, check what really came out, and run the module itself (in a worker)."""

import contextlib
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from tasks.core.errors import StepError, UserCodeError
from tasks.core.feeds import resize
from tasks.core.frozen import Frozen
from tasks.core.metrics import compare, worst
from tasks.core.observe import observing
from tasks.core.sets import EVALUATION_OUTPUTS, GOLDEN_OUTPUTS
from tasks.core.signature import Signature
from tasks.core.tensors import Tensors, load_batches, save_batches
from tasks.core.tolerances import PARITY, excess
from tasks.core.user_code import call_user
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tasks.runtimes.torch_eager import TorchEagerSession
from tasks.sources.graph_range import described, deviations
from tasks.sources.onnx_graph import ExportReply, GraphFacts, read_facts
from tasks.sources.onnx_outputs import name_outputs, placeholders
from tasks.sources.source_range import RangeRun, Source
from tasks.sources.torch_assumptions import check_assumptions
from tasks.sources.torch_module import TorchSource, load_module, output_names, takes_names

if TYPE_CHECKING:
    import torch

_TRACE = "pkg.torch.onnx.stack_trace"  # names folders of this machine: the same model would differ from host to host
MODEL = "model.onnx"
_PROTOBUF_BYTES = 1_800_000_000


class TorchExportRequest(Frozen):
    """What the worker is asked for; `golden` and `evaluation` are batches that the module itself is run on."""

    source: TorchSource
    signature: Signature
    opset: int
    exporter: Literal["dynamo", "torchscript"]
    golden: Path
    evaluation: Path | None
    folder: Path


def export_torch(request: TorchExportRequest) -> ExportReply:
    """Write model.onnx, and the source framework's outputs on the golden and evaluation batches."""
    given = [path for path in (request.golden, request.evaluation) if path is not None]
    with observing(request.source.project, request.folder, *given) as observations:
        module = load_module(request.source)
        example = _example(request)
        names = output_names(module, example, request.source)
        _run_source(module, request, names)
        over_range = _run_range(module, request, names)
        program = _export(module, request, example, names)
    facts = _finish(request.folder / MODEL, names)
    _check(facts, request)
    _check_range(request, over_range)
    if program is not None and program.exported_program is not None:
        agree = partial(_agree, module, request, names)
        check_assumptions(program.exported_program, request.source.inputs, request.signature, agree)
    return ExportReply(facts=facts, observed=observations(), range=over_range.save(request.folder))


def _run_range(module: "torch.nn.Module", request: TorchExportRequest, names: Sequence[str]) -> RangeRun:
    """Run the module at every point of the declared range."""
    inputs = request.source.inputs
    with TorchEagerSession(module, inputs, names, by_name=takes_names(module, inputs)) as session:

        def infer(feeds: Tensors) -> Tensors:
            return cast("Tensors", call_user(request.source.factory, partial(session.infer, feeds)))

        golden = load_batches(request.golden)[0]
        return Source(infer, golden, request.signature, "the module").run_range()


def _check_range(request: TorchExportRequest, over_range: RangeRun) -> None:
    golden = load_batches(request.golden)[0]
    wrong = deviations(request.folder / MODEL, over_range, golden, request.signature)
    if wrong:
        raise UserCodeError(described(wrong, over_range), "mend the module, or narrow `dims` to sizes that are right")


def _run_source(module: "torch.nn.Module", request: TorchExportRequest, names: Sequence[str]) -> None:
    """Keep what the module itself computes: every later hop is measured against it."""
    sets = {GOLDEN_OUTPUTS: request.golden, EVALUATION_OUTPUTS: request.evaluation}
    inputs = request.source.inputs
    with TorchEagerSession(module, inputs, names, by_name=takes_names(module, inputs)) as session:
        for name, feeds in sets.items():
            if feeds is not None:
                batches = load_batches(feeds)
                outputs = [call_user(request.source.factory, partial(session.infer, batch)) for batch in batches]
                save_batches(request.folder / name, cast("list[Tensors]", outputs))


def _agree(module: "torch.nn.Module", request: TorchExportRequest, names: Sequence[str], sizes: dict[str, int]) -> bool:
    """Whether module and graph compute the same at these sizes; the other dims are at their opt."""
    feeds = resize(load_batches(request.golden)[0], request.signature, {**request.signature.sizes("opt"), **sizes})
    inputs = request.source.inputs
    with TorchEagerSession(module, inputs, names, by_name=takes_names(module, inputs)) as session:
        expected = session.infer(feeds)
    try:
        (actual,) = run_unoptimised(request.folder / MODEL, [feeds])
        error = worst(compare(actual, expected).values())
    except StepError:  # it does not even run there, or gives other shapes
        return False
    return excess(error, PARITY["fp32"]) == []


def _example(request: TorchExportRequest) -> "dict[str, torch.Tensor]":
    """Fresh tensors for tracing; sizes are 2 or more where the range allows, since 1 would be taken for a constant."""
    import torch

    sizes = {name: max(dim.min, min(max(dim.opt, 2), dim.max)) for name, dim in request.signature.dims.items()}
    values = resize(load_batches(request.golden)[0], request.signature, sizes)
    # Copied into new tensors: one from numpy may have strides of its own, and the exporter would guard on them.
    sources = {name: torch.from_numpy(values[name]) for name in request.source.inputs}
    return {name: torch.empty(source.shape, dtype=source.dtype).copy_(source) for name, source in sources.items()}


def _dynamic_shapes(request: TorchExportRequest) -> dict[str, dict[int, object]]:
    from torch.export import Dim

    dims = {
        name: Dim(name, min=dim.min, max=dim.max)
        for name, dim in request.signature.dims.items()
        if dim.min < dim.max  # a range of one size is a constant to the exporter
    }
    return {
        name: {axis: dims[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str) and dim in dims}
        for name, spec in request.signature.inputs.items()
    }


def _export(
    module: "torch.nn.Module",
    request: TorchExportRequest,
    example: "dict[str, torch.Tensor]",
    names: Sequence[str],
) -> "torch.onnx.ONNXProgram | None":
    printed = io.StringIO()  # a failing export prints hundreds of lines
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            return _export_quietly(module, request, example, names)
    except Exception as error:
        raise UserCodeError(
            f"{request.source.factory} cannot be exported to ONNX: {_root_cause(error)}",
            "see the exporter's guide to what a module may do, or try `export: {exporter: torchscript}`",
            printed.getvalue(),
        ) from error


def _export_quietly(
    module: "torch.nn.Module",
    request: TorchExportRequest,
    example: "dict[str, torch.Tensor]",
    names: Sequence[str],
) -> "torch.onnx.ONNXProgram | None":
    import torch

    by_name = takes_names(module, request.source.inputs)
    dynamo = request.exporter == "dynamo"
    dynamic = _dynamic_shapes(request)
    return torch.onnx.export(
        module,
        () if by_name else tuple(example.values()),
        str(request.folder / MODEL),
        kwargs=example if by_name else None,
        input_names=list(request.source.inputs),
        output_names=placeholders(names),
        opset_version=request.opset,
        dynamo=dynamo,
        dynamic_shapes=(dynamic if by_name else tuple(dynamic.values())) if dynamo else None,
        dynamic_axes=None if dynamo else _dynamic_axes(request),
        external_data=_needs_external_data(module),
        verbose=False,
    )


def _dynamic_axes(request: TorchExportRequest) -> dict[str, dict[int, str]]:
    return {
        name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for name, spec in request.signature.inputs.items()
    }


def _needs_external_data(module: "torch.nn.Module") -> bool:
    """A protobuf message ends at 2 GiB; leave room for the graph itself."""
    size = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    return size > _PROTOBUF_BYTES


def _root_cause(error: BaseException) -> str:
    """First line of the first exception of a chain: what the exporter wraps around it fills pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{type(error).__name__}: {first[:300]}"


def _finish(path: Path, outputs: Sequence[str]) -> GraphFacts:
    """Name the outputs, and drop stack traces, so that the same model gives the same bytes from any folder."""
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    for node in model.graph.node:
        kept = [prop for prop in node.metadata_props if prop.key != _TRACE]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
    name_outputs(model, outputs)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return read_facts(model)


def _check(facts: GraphFacts, request: TorchExportRequest) -> None:
    """Raise StepError when the exporter gave another opset, other names or lost a dynamic dim without a word."""
    if facts.opset != request.opset:
        raise StepError(
            f"opset {request.opset} was asked for and the exporter gave {facts.opset}",
            "set `export.opset` to one it can give (18 to 23), or `export.exporter: torchscript`",
        )
    if tuple(facts.inputs) != request.source.inputs:
        raise StepError(
            f"the exported graph has the inputs {list(facts.inputs)}, expected {list(request.source.inputs)}",
            "an input that the module does not use is dropped: take it out of `inputs`",
        )
    for name, spec in request.signature.inputs.items():
        expected = [_expected(dim, request.signature) for dim in spec.shape]
        if list(facts.inputs[name].shape) != expected or facts.inputs[name].dtype != spec.dtype:
            raise StepError(
                f"input {name!r} was exported with shape {list(facts.inputs[name].shape)}, expected {expected}",
                "the module's code fixes that dim (a Python `if` or int() on a shape does): mend it, "
                "or write the number into `inputs` if one size is enough",
            )


def _expected(dim: int | str, signature: Signature) -> int | str:
    if isinstance(dim, str) and signature.dims[dim].min == signature.dims[dim].max:
        return signature.dims[dim].min
    return dim
