"""Export a torch module to ONNX, check what really came out, and run the module itself (in a worker)."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from tasks.core.feeds import resize
from tasks.core.frozen import Frozen
from tasks.core.memory import available_bytes
from tasks.core.observe import observing
from tasks.core.sets import EVALUATION_OUTPUTS, GOLDEN_OUTPUTS
from tasks.core.signature import Signature
from tasks.core.tensors import Tensors, load_batches, save_batches
from tasks.core.user_code import call_user
from tasks.runtimes.torch_eager import TorchEagerSession
from tasks.sources.onnx_graph import ExportReply
from tasks.sources.source_range import RangeRun, Source, check_numbers
from tasks.sources.torch_attempts import Attempts, Reference
from tasks.sources.torch_module import TorchSource, load_module, output_names, takes_names
from tasks.sources.torch_repeatable import check_factory, check_repeatable

if TYPE_CHECKING:
    import torch

MODEL = "model.onnx"
_FAST_PATH = (
    "the reference runs without the fast path of nn.TransformerEncoder and nn.MultiheadAttention: it gives zeros where "
    "a padding mask is set, and no exporter has it"
)


class TorchExportRequest(Frozen):
    """What the worker is asked for; `golden` and `evaluation` are batches that the module itself is run on."""

    source: TorchSource
    signature: Signature
    opset: int
    exporter: Literal["auto", "dynamo", "torchscript"]
    golden: Path
    evaluation: Path | None
    folder: Path


def export_torch(request: TorchExportRequest) -> ExportReply:
    """Write model.onnx, and the source framework's outputs on golden and evaluation data and over the range."""
    import torch

    given = [path for path in (request.golden, request.evaluation) if path is not None]
    torch.backends.mha.set_fastpath_enabled(False)  # this process is the export's own
    with observing(request.source.project, request.folder, *given) as observations:
        module = _loaded(request.source)
        example = _example(request)
        running = _Running(request, module, output_names(module, example, request.source))
        check_repeatable(module, running.infer, load_batches(request.golden), request.source.factory)
        running.keep_outputs()
        over_range = running.over_range()
        exported = Attempts(
            source=request.source,
            signature=request.signature,
            opset=request.opset,
            path=request.folder / MODEL,
            reference=Reference(running.names, load_batches(request.golden), over_range, running.infer),
        ).first_right(module, example, request.exporter)
    notes = (*((_FAST_PATH,) if _has_fast_path(module) else ()), *exported.notes)
    saved = over_range.save(request.folder)
    return ExportReply(
        facts=exported.facts, observed=observations(), range=saved, exporter=exported.exporter, notes=notes
    )


def _loaded(source: TorchSource) -> "torch.nn.Module":
    """Load the module; one without a checkpoint must be the same each time that its factory is called."""
    import torch

    before = torch.get_rng_state()
    module = load_module(source)
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.parameters())
    if source.checkpoint is None and 2 * size < available_bytes():
        after = torch.get_rng_state()
        torch.set_rng_state(before)
        check_factory(module, load_module(source), source.factory)
        torch.set_rng_state(after)
    return module


def _has_fast_path(module: "torch.nn.Module") -> bool:
    import torch

    kinds = (torch.nn.TransformerEncoderLayer, torch.nn.MultiheadAttention)
    return any(isinstance(part, kinds) for part in module.modules())


class _Running:
    """The module, run by name or by position as it takes its inputs."""

    def __init__(self, request: TorchExportRequest, module: "torch.nn.Module", names: Sequence[str]) -> None:
        inputs = request.source.inputs
        self.names = tuple(names)
        self._request = request
        self._session = TorchEagerSession(module, inputs, names, by_name=takes_names(module, inputs))

    def infer(self, feeds: Tensors) -> Tensors:
        """Run once; what the module raises is the user's."""
        return cast("Tensors", call_user(self._request.source.factory, partial(self._session.infer, feeds)))

    def keep_outputs(self) -> None:
        """Keep what the module itself computes: every later hop is measured against it."""
        sets = {GOLDEN_OUTPUTS: self._request.golden, EVALUATION_OUTPUTS: self._request.evaluation}
        for name, feeds in sets.items():
            if feeds is not None:
                outputs = [self.infer(batch) for batch in load_batches(feeds)]
                check_numbers(outputs, "the module")
                save_batches(self._request.folder / name, outputs)

    def over_range(self) -> RangeRun:
        """Run the module at every point of the declared range."""
        golden = load_batches(self._request.golden)[0]
        return Source(self.infer, golden, self._request.signature, "the module").run_range()


def _example(request: TorchExportRequest) -> "dict[str, torch.Tensor]":
    """Fresh tensors for tracing: a batch of the data as it is, which is known to be valid.

    A size of 1 would be taken for a constant: where the range allows it, such a dim is traced at 2.
    """
    import torch

    golden = load_batches(request.golden)[0]
    sizes = {name: _size_to_trace(golden, request.signature, name) for name in request.signature.dims}
    values = resize(golden, request.signature, sizes)
    # Copied into new tensors: one from numpy may have strides of its own, and the exporter would guard on them.
    sources = {name: torch.from_numpy(values[name]) for name in request.source.inputs}
    return {name: torch.empty(source.shape, dtype=source.dtype).copy_(source) for name, source in sources.items()}


def _size_to_trace(golden: Tensors, signature: Signature, dim: str) -> int:
    found = next(
        golden[name].shape[spec.shape.index(dim)] for name, spec in signature.inputs.items() if dim in spec.shape
    )
    wanted = signature.dims[dim]
    return found if found > 1 else min(max(wanted.step, 2), wanted.max)
