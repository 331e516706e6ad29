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
from tasks.sources.torch_repeatable import Repeatable, check_factory
from tasks.sources.torch_state import ModuleState

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
        module, fresh = _loaded(request.source)
        state = ModuleState(module)
        example = _example(request)
        running = _Running(request, module, output_names(module, example, request.source))
        running.check(state, fresh)
        del fresh
        running.keep_outputs()
        over_range = running.over_range()
        exported = Attempts(
            source=request.source,
            signature=request.signature,
            opset=request.opset,
            path=request.folder / MODEL,
            reference=Reference(running.names, running.golden, running.golden_outputs, over_range, running.infer),
        ).first_right(module, example, request.exporter)
    notes = (*((_FAST_PATH,) if _has_fast_path(module) else ()), *exported.notes)
    saved = over_range.save(request.folder)
    return ExportReply(
        facts=exported.facts, observed=observations(), range=saved, exporter=exported.exporter, notes=notes
    )


def _loaded(source: TorchSource) -> "tuple[torch.nn.Module, torch.nn.Module | None]":
    """Load the module; one without a checkpoint twice: it must be the same each time that its factory is called."""
    import torch

    before = torch.get_rng_state()
    module = load_module(source)
    if source.checkpoint is not None or not _fits_twice(module):
        return module, None
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    fresh = load_module(source)
    check_factory(module, fresh, source.factory)
    torch.set_rng_state(after)
    return module, fresh


def _fits_twice(module: "torch.nn.Module") -> bool:
    return 2 * sum(tensor.numel() * tensor.element_size() for tensor in module.parameters()) < available_bytes()


def _has_fast_path(module: "torch.nn.Module") -> bool:
    import torch

    kinds = (torch.nn.TransformerEncoderLayer, torch.nn.MultiheadAttention)
    return any(isinstance(part, kinds) for part in module.modules())


class _Running:
    """The module, run by name or by position as it takes its inputs."""

    def __init__(self, request: TorchExportRequest, module: "torch.nn.Module", names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.golden = load_batches(request.golden)
        self.golden_outputs: list[Tensors] = []
        self._request = request
        self._module = module
        self._session = self._open(module)

    def _open(self, module: "torch.nn.Module") -> TorchEagerSession:
        inputs = self._request.source.inputs
        return TorchEagerSession(module, inputs, self.names, by_name=takes_names(module, inputs))

    def infer(self, feeds: Tensors) -> Tensors:
        """Run once; what the module raises is the user's."""
        return cast("Tensors", call_user(self._request.source.factory, partial(self._session.infer, feeds)))

    def check(self, state: ModuleState, fresh: "torch.nn.Module | None") -> None:
        """Raise UserCodeError unless the module is a function of its inputs; `fresh` is another, just made."""
        repeatable = Repeatable(self._module, state, self.infer, self._request.source.factory)
        self.golden_outputs = repeatable.check(self.golden)
        if fresh is None and state.changed() and _fits_twice(self._module):
            fresh = load_module(self._request.source)
        if fresh is not None:
            repeatable.check_fresh(self._open(fresh).infer, self.golden, self.golden_outputs)

    def keep_outputs(self) -> None:
        """Keep what the module itself computes: every later hop is measured against it."""
        check_numbers(self.golden_outputs, "the module")
        save_batches(self._request.folder / GOLDEN_OUTPUTS, self.golden_outputs)
        if (evaluation := self._request.evaluation) is not None:
            outputs = [self.infer(batch) for batch in load_batches(evaluation)]
            check_numbers(outputs, "the module")
            save_batches(self._request.folder / EVALUATION_OUTPUTS, outputs)

    def over_range(self) -> RangeRun:
        """Run the module at every point of the declared range."""
        return Source(self.infer, self.golden[0], self._request.signature, "the module").run_range()


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
