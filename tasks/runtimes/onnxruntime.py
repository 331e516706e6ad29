"""ONNX Runtime: the judge of what a typed graph means, and a runtime whose engines are graphs optimised once, at build.

Its optimiser can make a quantised graph invalid, or silently wrong. So an engine is the graph at the highest level at
which its outputs still agree with the unoptimised graph's, written to a file and opened without optimising it again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeVar, get_args

from pydantic import Field, JsonValue, ValidationError

from tasks.core.digests import sha256_file
from tasks.core.environment import cpu_model, gpu
from tasks.core.errors import CannotRun, StepError
from tasks.core.files import need_space
from tasks.core.frozen import Frozen
from tasks.core.metrics import compare, worst
from tasks.core.tensors import Tensors, load_batches
from tasks.core.tolerances import AGREEMENT
from tasks.runtimes import base
from tasks.runtimes.base import BuildMetrics, BuildRequest, Capabilities, EngineCard, OpenOptions, TensorSpec
from tasks.runtimes.onnxruntime_errors import plain_errors
from tasks.runtimes.onnxruntime_session import (
    DATA,
    Level,
    Saving,
    SessionSettings,
    Weights,
    open_session,
    open_unoptimised,
    quiet,
    run_batches,
)

if TYPE_CHECKING:
    import onnxruntime

F = TypeVar("F", bound=Frozen)

# A file of protocol buffers ends at 2 GiB. Folding constants can enlarge a graph: leave it room.
_LARGEST_INLINE_BYTES = 1 << 30


class OnnxRuntimeOptions(Frozen):
    """What can be asked of an onnxruntime engine.

    `optimization` is the highest level that is tried: `all` binds the engine to its CPU. `agreement_rel_l2` replaces
    the precision's own bound, `threads` the number of physical cores.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    optimization: Level = "all"
    agreement_rel_l2: float | None = Field(default=None, ge=0)
    threads: int | None = Field(default=None, ge=1)
    spinning: bool = True


class OnnxRuntime:
    """Runs everywhere; on CPUs the runtime that is deployed."""

    def probe(self) -> Capabilities:
        """Say which onnxruntime this is, and whether it has a CUDA device."""
        try:
            import onnxruntime
        except ImportError as error:
            reason, cure = f"onnxruntime cannot be imported: {error}", "install it: pip install onnxruntime"
            return Capabilities(runtime="onnxruntime", available=False, reason=reason, cure=cure)
        cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers() and gpu() is not None
        on_cpu = ("fp32", "fp16", "int8", "fp8", "int4")  # bf16: it lacks Conv, MatMul and most other CPU kernels
        return Capabilities(
            runtime="onnxruntime",
            available=True,
            version=str(onnxruntime.__version__),
            devices=("cpu", "cuda:0") if cuda else ("cpu",),
            precisions=(*on_cpu, "bf16") if cuda else on_cpu,
        )

    def build(self, request: BuildRequest, folder: Path) -> BuildMetrics:
        """Write the graph at the highest optimisation level that agrees with the unoptimised one on golden."""
        here = self.probe()
        options = _parsed(OnnxRuntimeOptions, request.options, "engine options")
        try:
            trial = _trial(request, options, here, folder)
        except CannotRun as error:
            return BuildMetrics(
                size_bytes=0, optimization="none", rejected=(), agreement_rel_l2=0.0, not_run=str(error.message)
            )
        levels = get_args(Level)
        rejected: list[str] = []
        for level in levels[levels.index(options.optimization) :]:
            try:
                agreement = trial.attempt(level)
            except StepError as refusal:
                rejected.append(f"{level}: {refusal.message}")
                trial.discard()
                # Of a full disk onnxruntime says no more than that it could not write.
                need_space(folder, sum(file.stat().st_size for file in request.model.parent.iterdir()))
            else:
                unchanged = trial.unchanged()
                _write_card(trial, level, here.version)
                base.link_unchanged(request.model_copy(update={"folder": folder}), {name: name for name in unchanged})
                return BuildMetrics(
                    size_bytes=sum(file.stat().st_size for file in trial.files()) + sum(unchanged.values()),
                    optimization=level,
                    rejected=tuple(rejected),
                    agreement_rel_l2=agreement,
                    unchanged={name: name for name in unchanged},
                )
        raise StepError(
            f"onnxruntime has no optimisation level that agrees with {request.model.name}: {'; '.join(rejected)}",
            "look at the operators that are named, or use another precision",
        )

    def open(self, engine: Path, card: EngineCard, options: OpenOptions) -> "OnnxRuntimeSession":
        """Open an engine whose card fits this host; the graph is run as it was saved, not optimised again."""
        base.check_card(card, engine, self.probe())
        settings = _parsed(SessionSettings, card.settings, "session settings in the card")
        here = cpu_identity()
        bound = {name: card.host.get(name) for name in here}
        if settings.optimization == "all" and bound != here:
            raise StepError(
                f"{engine} was optimised for the CPU {bound}; this host has {here}",
                "build the engine again where it will run, or with `optimization: extended`, which binds it to no CPU",
            )
        beside = {**settings.unchanged, **({DATA: settings.data_bytes} if settings.data_bytes else {})}
        for name, size in beside.items():
            base.check_size(engine.with_name(name), size)
        if options.threads is not None:
            settings = settings.model_copy(update={"intra_op_num_threads": options.threads})
        return OnnxRuntimeSession(engine, card, settings if options.timed else quiet(settings))


class OnnxRuntimeSession:
    """An open engine."""

    def __init__(self, engine: Path, card: EngineCard, settings: SessionSettings) -> None:
        self._card = card
        self._resident = base.resident_bytes()
        self._session: onnxruntime.InferenceSession | None = open_session(engine, "disabled", settings)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._session = None

    def infer(self, feeds: Tensors) -> Tensors:
        """Run once, host memory to host memory."""
        session = self._opened()
        base.check_inputs(self._card, feeds)
        return run_batches(session, [feeds])[0]

    def time(self, feeds: Tensors, seconds: float) -> base.Samples:
        """Time inferences whose inputs are bound beforehand.

        The source framework is timed on tensors of its own, so here too the clock does not see numpy arrays turn into
        tensors and back (25 us of a 70 us inference). Giving memory to the outputs stays inside, for both.
        """
        import numpy as np
        import onnxruntime

        session = self._opened()
        base.check_inputs(self._card, feeds)
        device, _, index = self._card.device.partition(":")
        binding = session.io_binding()
        for name, feed in feeds.items():
            value = onnxruntime.OrtValue.ortvalue_from_numpy(np.asarray(feed, order="C"), device, int(index or 0))
            binding.bind_ortvalue_input(name, value)
        for output in self._card.outputs:
            binding.bind_output(output.name, device, int(index or 0))
        with plain_errors("running the engine"):
            return base.sample(lambda: session.run_with_iobinding(binding), seconds)

    def memory(self) -> base.MemoryUse:
        """Host memory since the engine was opened; onnxruntime does not tell how much of a GPU it holds."""
        return base.growth_since(self._resident)

    def layers(self) -> tuple[base.LayerTime, ...]:
        """Nothing: onnxruntime times its layers only in a profiling session, which is slower."""
        return ()

    def _opened(self) -> "onnxruntime.InferenceSession":
        if self._session is None:
            raise StepError("this onnxruntime session is closed", "use it inside its `with` block")
        return self._session


def cpu_identity() -> dict[str, str]:
    """Tell what the highest optimisation level depends on: its memory layouts follow the vector instructions."""
    cpuinfo = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    vector = re.findall(r"\b(?:avx|amx|fma|asimd|sve|sme|i8mm|bf16)\w*", flags[1] if flags else "")
    return {"cpu": cpu_model(), "vector_instructions": " ".join(sorted(vector))}


def _declared(values: "Sequence[onnxruntime.NodeArg]") -> tuple[TensorSpec, ...]:
    specs = []
    for value in values:
        tensor = re.fullmatch(r"tensor\((\w+)\)", value.type)
        if tensor is None:
            raise StepError(f"'{value.name}' is a {value.type}", "export a model whose inputs and outputs are tensors")
        dtype = {"float": "float32", "double": "float64"}.get(tensor[1], tensor[1])
        shape = tuple("?" if dim is None else dim for dim in value.shape)
        specs.append(TensorSpec(name=value.name, dtype=dtype, shape=shape))
    return tuple(specs)


@dataclass(frozen=True)
class _Trial:
    """What every optimisation level of one build is tried with."""

    request: BuildRequest
    folder: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    golden: list[Tensors]
    expected: list[Tensors]
    settings: SessionSettings
    bound: float

    def files(self) -> list[Path]:
        return [file for file in (self.folder / base.ENGINE, self.folder / DATA) if file.exists()]

    def discard(self) -> None:
        for file in self.files():
            file.unlink()

    def attempt(self, level: Level) -> float:
        """Write the engine at `level` and return its distance from the unoptimised graph, if it is not too far."""
        optimised = self._optimised(level, beside=self.request.model.stat().st_size > _LARGEST_INLINE_BYTES)
        weights = Weights(self.request.model.parent if self.unchanged() else None)
        saved = open_session(self.folder / base.ENGINE, "disabled", quiet(self.settings), weights)
        return max(optimised, self._distance(saved, "saved"))

    def _optimised(self, level: Level, *, beside: bool) -> float:
        """Write the engine: weights that the optimiser left as they are stay in the model's own files.

        What it changed lies in the engine, and in a file beside it where that is too much for a protocol buffer.
        """
        engine, external = self.folder / base.ENGINE, base.external_files(self.request.model)
        try:
            session = open_session(self.request.model, level, quiet(self.settings), saving=Saving(engine, beside))
        except StepError:
            if beside or not external:
                raise
            return self._optimised(level, beside=True)
        if external and not beside and engine.stat().st_size > _LARGEST_INLINE_BYTES:
            del session
            return self._optimised(level, beside=True)
        return self._distance(session, "optimised")

    def unchanged(self) -> dict[str, int]:
        """Sizes of the model's files that the engine uses as they are."""
        names = set(base.external_files(self.folder / base.ENGINE)) - {DATA}
        return {name: self.request.model.with_name(name).stat().st_size for name in sorted(names)}

    def _distance(self, session: "onnxruntime.InferenceSession", which: str) -> float:
        pairs = zip(run_batches(session, self.golden), self.expected, strict=True)
        error = worst(error for actual, expected in pairs for error in compare(actual, expected).values())
        if not error.finite:
            raise StepError(f"the {which} graph gives NaN or Inf, the unoptimised one does not")
        if error.rel_l2 > self.bound:
            differs = f"the {which} graph's outputs differ from the unoptimised one's by rel_l2 {error.rel_l2:.3g}"
            raise StepError(f"{differs}, more than {self.bound:g}")
        return error.rel_l2


def _trial(request: BuildRequest, options: OnnxRuntimeOptions, here: Capabilities, folder: Path) -> _Trial:
    if options.device == "cuda" and "cuda:0" not in here.devices:
        cure = "install onnxruntime-gpu on a host with an NVIDIA GPU, or set `device: cpu`"
        raise StepError("the engine asks for device cuda, and onnxruntime finds no CUDA device here", cure)
    if request.precision not in AGREEMENT:
        raise StepError(f"'{request.precision}' is no kind of precision", f"it must be one of {', '.join(AGREEMENT)}")
    judge = open_unoptimised(request.model)
    inputs = base.input_specs(_declared(judge.get_inputs()), request.signature)
    golden = load_batches(request.golden)
    cpu = ("CPUExecutionProvider",)
    return _Trial(
        request=request,
        folder=folder,
        inputs=inputs,
        outputs=_declared(judge.get_outputs()),
        golden=golden,
        expected=_without_nan(run_batches(judge, golden), request.model),
        settings=SessionSettings(
            optimization=options.optimization,
            intra_op_num_threads=options.threads or base.physical_cores(),
            allow_spinning=options.spinning,
            providers=("CUDAExecutionProvider", *cpu) if options.device == "cuda" else cpu,
        ),
        bound=AGREEMENT[request.precision] if options.agreement_rel_l2 is None else options.agreement_rel_l2,
    )


def _without_nan(outputs: list[Tensors], model: Path) -> list[Tensors]:
    """Return the outputs; refuse NaN, with which no engine could be compared."""
    import numpy as np

    floats = {name: tensor for batch in outputs for name, tensor in batch.items() if tensor.dtype.kind == "f"}
    bad = sorted({name for name, tensor in floats.items() if np.isnan(tensor).any()})
    if bad:
        cure = "if the source gives it too, look there; else its types overflow: use a wider precision"
        raise StepError(f"{model.name} gives NaN on golden in {bad}, even unoptimised", cure)
    return outputs


def _parsed(kind: type[F], values: dict[str, JsonValue], what: str) -> F:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise StepError(f"wrong {what}: {problems}", f"onnxruntime knows {', '.join(kind.model_fields)}") from error


def _write_card(trial: _Trial, level: Level, version: str) -> None:
    engine, data = trial.folder / base.ENGINE, trial.folder / DATA
    data_bytes = data.stat().st_size if data.exists() else 0
    update = {"optimization": level, "data_bytes": data_bytes, "unchanged": trial.unchanged()}
    settings = trial.settings.model_copy(update=update)
    card = EngineCard(
        runtime="onnxruntime",
        runtime_version=version,
        precision=trial.request.precision,
        device="cuda:0" if len(settings.providers) > 1 else "cpu",
        host=trial.request.host | cpu_identity(),
        inputs=trial.inputs,
        outputs=trial.outputs,
        dims=trial.request.signature.dims,
        settings=settings.model_dump(mode="json"),
        engine_bytes=engine.stat().st_size,
        engine_sha256=sha256_file(engine),
    )
    (trial.folder / base.CARD).write_text(card.model_dump_json(indent=1), encoding="utf-8")
