"""From a typed ONNX graph to a serialised TensorRT engine (in a worker)."""

import ctypes
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from tasks.core.errors import CannotRun, StepError
from tasks.core.frozen import Frozen
from tasks.core.signature import Signature
from tasks.runtimes.onnx_opset import lower_opset
from tasks.runtimes.tensorrt_dialects import Dialect, dialect_of, network_flags

if TYPE_CHECKING:
    from types import ModuleType

log = logging.getLogger(__name__)
_WORST = 5  # messages of the library that an error keeps: the first say why, the later ones that it gave up
# TensorRT says this of a layer for which no kernel fits, most often into the memory that it was given.
_NO_KERNEL = "Could not find any implementation"


class TensorRtOptions(Frozen):
    """How an engine is built and run.

    workspace_bytes: scratch memory that a kernel may ask for (default: all of the GPU's). optimization_level: 0 to 5,
    how hard the builder looks (TensorRT's default: 3). tf32: lets fp32 be rounded to TF32. compute_capability: of the
    GPU to build for, where the builder needs none, as 8.9. cuda_graph: launch an inference as one captured graph.
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
    plugins: tuple[Path, ...] = ()
    compute_capability: str = "8.9"
    cuda_graph: bool = True
    upper_bounds: dict[str, int] = Field(default_factory=dict)


class BuildSettings(Frozen):
    """A graph to compile, its precision and profile, and where a timing cache is kept."""

    model: Path
    kind: str
    signature: Signature
    options: TensorRtOptions
    timing_cache: Path | None = None


@dataclass
class Messages:
    """What the library said, worst first."""

    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def failure(self, what: str, cure: str) -> StepError:
        """An error with what the library said."""
        said = "; ".join(self.errors[:_WORST]) or "it gave no reason"
        if _NO_KERNEL in said:
            cure = "it is most often short of memory: raise workspace_bytes, or build on a GPU that is free"
        return StepError(f"{what}: {said}", cure, "\n".join([*self.errors, *self.warnings]))


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


def build_plan(trt: "ModuleType", settings: BuildSettings, messages: Messages) -> bytes:
    """Compile the graph; returns the serialised engine."""
    dialect = dialect_of(trt)
    _check_kind(dialect, settings.kind)
    load_plugins(settings.options.plugins)
    logger = logger_of(trt, messages)
    trt.init_libnvinfer_plugins(logger, "")
    builder = trt.Builder(logger)
    network = builder.create_network(network_flags(trt, dialect))
    parser = trt.OnnxParser(network, logger)
    _parse(parser, network, settings.model, dialect)
    config = _config(trt, builder, dialect, settings)
    _add_profile(builder, config, network, settings.signature)
    cache = _timing_cache(config, settings.timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise messages.failure(
            f"TensorRT {trt.__version__} could not build {settings.model.name}",
            "leave out what it names, by another precision or `exclude`",
        )
    if cache is not None and settings.timing_cache is not None:
        settings.timing_cache.write_bytes(bytes(cache.serialize()))
    return bytes(plan)


def _check_kind(dialect: Dialect, kind: str) -> None:
    if kind not in dialect.precisions:
        known = ", ".join(dialect.precisions)
        raise CannotRun(f"TensorRT {dialect.name} has no {kind}", f"it takes {known}")


def _parse(parser: Any, network: Any, model: Path, dialect: Dialect) -> None:  # noqa: ANN401 - of a module value
    """Fill the network; raise StepError with the node that the parser could not take."""
    if dialect.opset is None:
        parsed = parser.parse_from_file(str(model))
    else:
        parsed = parser.parse(_lowered(model, dialect), str(model))
    if parsed and network.num_outputs:
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    said = "; ".join(_described(error) for error in errors[:_WORST]) or "it gave no reason"
    raise StepError(
        f"TensorRT {dialect.name} cannot parse {model.name}: {said}",
        "export those operators otherwise, or use a plugin",
    )


def _lowered(model: Path, dialect: Dialect) -> bytes:
    import onnx

    graph = onnx.load(model, load_external_data=False)
    lowered = lower_opset(graph, dialect.opset or 0, dialect.ir_version or graph.ir_version)
    return bytes(lowered.SerializeToString(deterministic=True))


def _described(error: Any) -> str:  # noqa: ANN401 - of a module value
    node = error.node_name() if hasattr(error, "node_name") else f"node {error.node()}"
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    return f"{node} {operator}: {error.desc()}".strip()


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
        **dict.fromkeys(dialect.kind_flags.get(settings.kind, ()), True),
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


def _add_profile(builder: Any, config: Any, network: Any, signature: Signature) -> None:  # noqa: ANN401
    """One optimization profile from the named dims: min, opt and max of every input."""
    if not signature.dims:
        return
    profile = builder.create_optimization_profile()
    sizes = [signature.sizes(which) for which in ("min", "opt", "max")]
    for index in range(network.num_inputs):
        name = network.get_input(index).name
        profile.set_shape(name, *(signature.shape(name, size) for size in sizes))
    config.add_optimization_profile(profile)


def _timing_cache(config: Any, path: Path | None) -> Any:  # noqa: ANN401
    """Start from what earlier builds timed."""
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache
