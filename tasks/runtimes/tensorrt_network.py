"""From a typed ONNX graph to a serialised TensorRT engine (in a worker)."""

import ctypes
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import Field

from tasks.core.errors import CannotRun, StepError
from tasks.core.frozen import Frozen
from tasks.core.signature import Signature
from tasks.runtimes.opset.lower import newest_opset
from tasks.runtimes.tensorrt_calibrator import calibrating
from tasks.runtimes.tensorrt_dialects import Dialect, dialect_of, network_flags
from tasks.runtimes.tensorrt_errors import Origins, cure_for, parse_failure, places
from tasks.runtimes.tensorrt_profile import profile_of
from tasks.runtimes.tensorrt_tensors import EngineTensor, of_network
from tasks.runtimes.tensorrt_timing import TimedTactics
from tasks.runtimes.timing_cache import TimingCacheUse

if TYPE_CHECKING:
    from types import ModuleType

    import onnx

log = logging.getLogger(__name__)
_WORST = 5  # messages of the library that an error keeps: the first say why, the later ones that it gave up


class TensorRtOptions(Frozen):
    """How an engine is built and run.

    workspace_bytes: scratch memory that a kernel may ask for (default: all of the GPU's). optimization_level: 0 to 5,
    how hard the builder looks (TensorRT's default: 3). tf32: lets fp32 be rounded to TF32. compute_capability: of the
    GPU to build for, where the builder needs none, as 8.9. cuda_graph: launch an inference as one captured graph.
    refittable: the weights can be exchanged. strip_plan: the plan holds none, and gets them when it is opened.
    """

    device: str = "cuda"
    threads: int | None = None
    workspace_bytes: int | None = None
    optimization_level: int | None = None
    tf32: bool = False
    sparsity: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    refittable: bool = False
    strip_plan: bool = False
    plugins: tuple[Path, ...] = ()
    compute_capability: str = "8.9"
    cuda_graph: bool = True
    upper_bounds: dict[str, int] = Field(default_factory=dict)


class BuildSettings(Frozen):
    """A graph to compile, its precision and profile, and where its parts lie.

    folder: what is kept beside the engine. exported: the graph that knows the source. timing_caches: folder of the
    caches. calibration: data for TensorRT's own calibrator.
    """

    model: Path
    kind: str
    signature: Signature
    options: TensorRtOptions
    folder: Path
    exported: Path | None = None
    timing_caches: Path | None = None
    calibration: Path | None = None

    @property
    def limits(self) -> str:
        """Memory that a kernel may ask for, in words."""
        limit = self.options.workspace_bytes
        return "workspace_bytes is not limited" if limit is None else f"workspace_bytes is {limit / 2**30:.3g} GiB"


@dataclass
class Parsed:
    """A network with what has to live as long as it does: its weights lie in the parser's memory."""

    builder: Any
    network: Any
    parser: Any
    model: "onnx.ModelProto"
    config: Any = None

    def release(self) -> None:
        """Let go of everything, the builder last.

        Python would let go of it first. On 8.6 that ends the process with a segmentation fault, once the config has a
        timing cache.
        """
        self.config = self.parser = self.network = self.builder = None


class BuiltPlan(NamedTuple):
    """A serialised engine, what it takes and gives, and what the timing cache held."""

    data: bytes
    tensors: dict[str, EngineTensor]
    timing_cache: TimingCacheUse | None


@dataclass
class Messages:
    """What the library said, worst first."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def failure(self, what: str, cure: str, limits: str = "") -> StepError:
        """An error with what the library said, and what to do about that."""
        everything = "\n".join([*self.errors, *self.warnings])
        return StepError(f"{what}: {self.said}", cure_for(everything, cure, limits), everything)

    @property
    def said(self) -> str:
        """The first errors, which say why."""
        return "; ".join(self.errors[:_WORST]) or "it gave no reason"


def logger_of(trt: "ModuleType", messages: Messages) -> Any:  # noqa: ANN401 - a class of a module that is a value here
    """Make a logger that keeps errors and warnings."""

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                messages.errors.append(message)
            elif severity == trt.ILogger.Severity.WARNING:
                messages.warnings.append(message)

    return Logger()


def load_plugins(plugins: Sequence[Path]) -> None:
    """Load the user's plugin libraries; they register themselves."""
    for plugin in plugins:
        try:
            ctypes.CDLL(str(plugin), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            raise StepError(f"the plugin {plugin} cannot be loaded: {error}", "build it for this TensorRT") from error


def build_plan(trt: "ModuleType", settings: BuildSettings, messages: Messages) -> BuiltPlan:
    """Compile the graph."""
    dialect = dialect_of(trt)
    check_settings(dialect, settings)
    with ExitStack() as stack:
        parsed = parse(trt, logger_of(trt, messages), settings)
        stack.callback(parsed.release)
        parsed.config = _config(trt, parsed.builder, dialect, settings)
        profile = profile_of(parsed.builder, parsed.network, settings.signature)
        if profile is not None:
            parsed.config.add_optimization_profile(profile)
        timed = None
        if settings.timing_caches and dialect.timing_cache:
            timed = TimedTactics(trt, parsed.config, settings.timing_caches)
            stack.callback(timed.release)
        tensors = of_network(parsed.network)
        plan = _compiled(trt, parsed, settings, messages)
        return BuiltPlan(plan, tensors, timed.keep() if timed else None)


def _compiled(trt: "ModuleType", parsed: Parsed, settings: BuildSettings, messages: Messages) -> bytes:
    with calibrating(trt, parsed, settings.calibration, settings.signature, settings.folder):
        plan = parsed.builder.build_serialized_network(parsed.network, parsed.config)
    if plan is None:
        where = places(messages.said, parsed.model, Origins.read(settings.exported))
        raise messages.failure(
            f"TensorRT {trt.__version__} could not build {settings.model.name}{where}",
            "leave out what it names, by another precision or `exclude`",
            settings.limits,
        )
    return bytes(plan)


def parse(trt: "ModuleType", logger: Any, settings: BuildSettings) -> Parsed:  # noqa: ANN401 - of a module value
    """Make a network of the graph; raise StepError with the node that the parser could not take."""
    dialect = dialect_of(trt)
    load_plugins(settings.options.plugins)
    trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(trt, dialect))
    parser = trt.OnnxParser(network, logger)
    model = readable(settings.model, dialect)
    if dialect.opset is None:
        done = parser.parse_from_file(str(settings.model))
    else:
        done = parser.parse(model.SerializeToString(deterministic=True), str(settings.model))
    if not done or not network.num_outputs:
        what = f"TensorRT {dialect.name} cannot parse {settings.model.name}"
        raise parse_failure(what, parser, model, Origins.read(settings.exported))
    return Parsed(builder, network, parser, model)


def readable(path: Path, dialect: Dialect) -> "onnx.ModelProto":
    """The graph, its external weights left where they are; raise StepError for one that this TensorRT cannot read."""
    import onnx

    model = onnx.load(path, load_external_data=False)
    _check_types(model, dialect)
    _check_outputs(model, dialect)
    opset = newest_opset(model)
    if dialect.opset is not None and opset > dialect.opset:
        raise StepError(
            f"{path.name} is in opset {opset}, and TensorRT {dialect.name} reads opset {dialect.opset}",
            "run the pipeline again: the step `lower` makes a graph for it",
        )
    return model


def check_settings(dialect: Dialect, settings: BuildSettings) -> None:
    """Refuse what this TensorRT cannot do before anything is parsed."""
    _check_kind(dialect, settings.kind)
    if settings.calibration and not dialect.calibrator:
        raise StepError(
            f"TensorRT {dialect.name} has no calibrator of its own: 8.6 was the last with one that is not deprecated",
            "use {int8: {method: entropy}}, which puts Q/DQ into the graph",
        )
    if settings.options.strip_plan and not dialect.strip:
        raise StepError(f"TensorRT {dialect.name} makes no plan without weights", "leave strip_plan out for it")


def _check_kind(dialect: Dialect, kind: str) -> None:
    if kind not in dialect.precisions:
        known = ", ".join(dialect.precisions)
        raise CannotRun(f"TensorRT {dialect.name} has no {kind}", f"it takes {known}")


def _check_types(model: "onnx.ModelProto", dialect: Dialect) -> None:
    """Name a type that the parser would stumble over without a word about it."""
    from onnx import TensorProto

    unread = {TensorProto.DataType.Value(name): name for name in dialect.unread}
    held = [(tensor.name, tensor.data_type) for tensor in model.graph.initializer]
    held += [(v.name, v.type.tensor_type.elem_type) for v in (*model.graph.input, *model.graph.output)]
    held += [(node.name or node.output[0], a.i) for node in model.graph.node for a in node.attribute if a.name == "to"]
    found = next(((name, unread[kind]) for name, kind in held if kind in unread), None)
    if found:
        raise CannotRun(
            f"TensorRT {dialect.name} does not know {found[1]}, which the graph has at {found[0]!r}",
            "use fp32, fp16 or int8 for this engine, or a newer TensorRT",
        )


def _check_outputs(model: "onnx.ModelProto", dialect: Dialect) -> None:
    """Refuse an output that is an input: a network of TensorRT has one tensor of each name."""
    inputs = {value.name for value in model.graph.input}
    both = next((value.name for value in model.graph.output if value.name in inputs), None)
    if both:
        raise StepError(
            f"TensorRT {dialect.name} does not take {both!r}: it is an input, and an output without a node between",
            "take it out of the model's outputs: the caller has it already",
        )


def _config(trt: "ModuleType", builder: Any, dialect: Dialect, settings: BuildSettings) -> Any:  # noqa: ANN401
    options, config = settings.options, builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    wanted = {
        "TF32": options.tf32,
        "SPARSE_WEIGHTS": options.sparsity,
        "VERSION_COMPATIBLE": options.version_compatible,
        "REFIT": options.refittable,
        **({"STRIP_PLAN": True} if options.strip_plan else {}),  # 8.6 has no flag to clear
        **dict.fromkeys(dialect.kind_flags.get(settings.kind, ()), True),
        **dict.fromkeys(dialect.calibrator if settings.calibration else (), True),
    }
    for name, on in wanted.items():
        (config.set_flag if on else config.clear_flag)(getattr(trt.BuilderFlag, name))
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    for feature in dialect.preview:
        config.set_preview_feature(getattr(trt.PreviewFeature, feature), True)  # noqa: FBT003 - takes it by place
    if dialect.offline:
        capability = getattr(trt.ComputeCapability, f"SM{options.compute_capability.replace('.', '')}")
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability, 0)
    return config
