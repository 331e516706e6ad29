"""The sections of one pipeline in a pipelines.yaml."""

from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, JsonValue, Tag
from pydantic import model_validator as check

from tasks.core.config_fields import FunctionRef, Name, PathText, Point, Problem, Section, Source, refusal
from tasks.core.config_precision import Seconds

RuntimeName: TypeAlias = Literal["onnxruntime", "reference", "tensorrt", "tensorrt-rtx"]
Objective: TypeAlias = Literal[
    "latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "throughput_per_s", "size_bytes", "metric"
]

RUNTIMES: tuple[RuntimeName, ...] = ("onnxruntime", "reference", "tensorrt", "tensorrt-rtx")


class TorchModel(Section):
    """A PyTorch model: `torch` makes the module, `checkpoint` is loaded into it, `files` are globs it also reads."""

    torch: FunctionRef
    checkpoint: PathText | None = None
    files: tuple[PathText, ...] = ()


class OnnxModel(Section):
    """A model that is an ONNX file already; `files` are globs of what lies beside it."""

    onnx: PathText
    files: tuple[PathText, ...] = ()


def _one_framework(value: object) -> object:
    """Refuse a model of no framework or of two, before the union is asked which one it is."""
    if isinstance(value, TorchModel | OnnxModel):
        return value
    keys = list(value) if isinstance(value, dict) else []
    if ("torch" in keys) != ("onnx" in keys):
        return value
    found = " and ".join(repr(key) for key in keys) or repr(value)
    cure = 'write {torch: "module:function", checkpoint: FILE} or {onnx: FILE}'
    raise refusal([Problem(f"found {found:.80}, expected exactly one of the keys 'torch' and 'onnx'", cure)])


def _framework(value: object) -> str:
    is_onnx = "onnx" in value if isinstance(value, dict) else isinstance(value, OnnxModel)
    return "OnnxModel" if is_onnx else "TorchModel"


ModelConfig: TypeAlias = Annotated[
    Annotated[TorchModel, Tag("TorchModel")] | Annotated[OnnxModel, Tag("OnnxModel")],
    Discriminator(_framework),
    BeforeValidator(_one_framework),
]


class CalibrationConfig(Section):
    """Data that shows a quantiser the usual ranges; exactly `samples` of it are consumed."""

    source: Source
    samples: int | None = Field(default=None, ge=1)


class MetricConfig(Section):
    """The user's own measure of quality over the evaluation data, and the bounds it must keep."""

    function: FunctionRef
    higher_is_better: bool = True
    min: float | None = None
    max: float | None = None

    @check(mode="after")
    def _ordered(self) -> Self:
        if self.min is not None and self.max is not None and self.min > self.max:
            raise refusal([Problem(f"min {self.min} is above max {self.max}", "make min at most max")])
        return self


class EvaluationConfig(Section):
    """Data with known answers; exactly `samples` of it are consumed. `synthetic` has every report say it is made up."""

    source: Source
    samples: int | None = Field(default=None, ge=1)
    synthetic: bool = False
    metric: MetricConfig | None = None


class DataConfig(Section):
    """What the pipeline calibrates with and what it is judged by."""

    calibration: CalibrationConfig | None = None
    evaluation: EvaluationConfig | None = None


class EngineOptions(Section):
    """How an engine is built and run; which runtime has which of these: `OPTIONS`.

    threads: of the CPU. workspace_bytes: scratch memory that a kernel may ask for. optimization_level: how hard the
    builder looks. tf32: fp32 may be rounded to TF32. compute_capability: what TensorRT-RTX builds for, as "8.9".
    cuda_graph: time inferences as one captured graph. upper_bounds: of tensors that hold sizes which only running
    tells, where the builder asks for one. refittable: a retrain that changes only weights is refitted.
    strip_plan: the engine file holds no weights. timeout: how long its build may take.
    """

    threads: int | None = Field(default=None, ge=1)
    device: Literal["cpu", "cuda"] | None = None
    workspace_bytes: int | None = Field(default=None, ge=1)
    optimization_level: int | None = Field(default=None, ge=0, le=5)
    tf32: bool = False
    sparsity: bool = False
    version_compatible: bool = False
    hardware_compatible: bool = False
    refittable: bool = False
    strip_plan: bool = False
    plugins: tuple[PathText, ...] = ()
    compute_capability: str = Field(default="8.9", pattern=r"^\d{1,2}\.\d$")
    cuda_graph: bool = True
    upper_bounds: dict[str, Annotated[int, Field(ge=1)]] = Field(default_factory=dict)
    timeout: Seconds | None = None


_TENSORRT_OPTIONS = (
    "workspace_bytes",
    "optimization_level",
    "tf32",
    "sparsity",
    "version_compatible",
    "hardware_compatible",
    "refittable",
    "strip_plan",
    "plugins",
    "cuda_graph",
    "upper_bounds",
    "timeout",
)
OPTIONS: dict[RuntimeName, tuple[str, ...]] = {
    "onnxruntime": ("threads", "device", "timeout"),
    "reference": ("threads", "device", "timeout"),
    "tensorrt": _TENSORRT_OPTIONS,
    "tensorrt-rtx": (*_TENSORRT_OPTIONS, "compute_capability"),
}


class EngineConfig(Section):
    """One runtime to build for, by default for every precision.

    `interpreter` names the Python that builds and runs it, `run_on` others that open, check and time it too.
    """

    runtime: RuntimeName
    name: Name = ""
    interpreter: Name | None = None
    run_on: tuple[Name, ...] = ()
    precisions: tuple[str, ...] | None = Field(default=None, min_length=1)
    optional: bool = False
    options: EngineOptions = EngineOptions()

    @check(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:  # noqa: ANN401 -- whatever the YAML holds
        known = isinstance(value, dict) and value.get("runtime") in RUNTIMES
        return {"name": value["runtime"], **value} if known else value

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """Where the engine runs."""
        return self.options.device or ("cuda" if self.runtime.startswith("tensorrt") else "cpu")

    @property
    def labels(self) -> tuple[str, ...]:
        """What its results are called before the precision: the engine, then by which others it is opened too."""
        return (self.name, *(f"{self.name}@{other}" for other in self.run_on))

    def chosen(self) -> dict[str, JsonValue]:
        """The options that this runtime has and that decide what is built, as they go to its build and its key."""
        values = self.options.model_dump(mode="json", include=set(OPTIONS[self.runtime]) - {"timeout"})
        return values | ({"device": self.device} if "device" in values else {})

    @check(mode="after")
    def _has_options(self) -> Self:
        wrong = sorted(self.options.model_fields_set - set(OPTIONS[self.runtime]))
        if wrong:
            cure = f"it has {', '.join(OPTIONS[self.runtime])}"
            raise refusal([Problem(f"{self.runtime} has no option {wrong[0]!r}", cure, ("options", wrong[0]))])
        if self.runtime == "reference" and self.options.device == "cuda":
            problem = Problem("the reference runtime has no device 'cuda'", "use device: cpu", ("options", "device"))
            raise refusal([problem])
        if self.options.version_compatible and self.options.refittable:
            cure = "leave one of them out"
            raise refusal([Problem("an engine cannot be version_compatible and refittable", cure, ("options",))])
        if self.options.strip_plan and not self.options.refittable:
            what = "a plan without weights gets them by a refit, and this engine is not refittable"
            raise refusal([Problem(what, "add refittable: true", ("options", "strip_plan"))])
        return self


class ParityBounds(Section):
    """How far outputs may be from the source framework's.

    `slice_rel_l2` is the rel_l2 of the worst slice across any axis, `agreement` the share of equal integers or flags.
    """

    max_abs_error: float | None = Field(default=None, ge=0)
    rel_l2: float | None = Field(default=None, ge=0)
    cosine: float | None = Field(default=None, ge=-1, le=1)
    top1_agreement: float | None = Field(default=None, ge=0, le=1)
    slice_rel_l2: float | None = Field(default=None, ge=0)
    agreement: float | None = Field(default=None, ge=0, le=1)

    @check(mode="after")
    def _bounds_something(self) -> Self:
        if not self.model_dump(exclude_none=True, exclude_defaults=True):
            raise refusal(
                [Problem("the gate has no bound", f"set at least one of {', '.join(type(self).model_fields)}")]
            )
        return self


class ParityGate(ParityBounds):
    """Bounds for the worst output; an output that `outputs` names has bounds of its own."""

    outputs: dict[str, ParityBounds] = Field(default_factory=dict)


class GatesConfig(Section):
    """What an engine must pass; `metric_drop` is absolute, and 0.01 where there is a metric and none is given.

    The regressions are against the engine that is promoted: `latency_regression` is the share by which the median
    latency may be longer (0.05: five percent), `metric_regression` is absolute.
    """

    metric_drop: float | None = Field(default=None, ge=0)
    latency_regression: float | None = Field(default=None, ge=0)
    metric_regression: float | None = Field(default=None, ge=0)
    parity: dict[str, ParityGate] = Field(default_factory=dict)


class BenchmarkConfig(Section):
    """Where to measure, for how long a point, and whether beside the baselines.

    streams: how many streams at once to measure the throughput of, on runtimes that have streams.
    """

    at: tuple[Point, ...] | None = Field(default=None, min_length=1)
    seconds: float = Field(default=2.0, gt=0)
    baselines: bool = True
    streams: tuple[Annotated[int, Field(ge=1, le=64)], ...] = ()


class PromoteConfig(Section):
    """What the best engine is best by, and at which measured point."""

    by: Objective = "latency_p50_ms"
    at: Point | None = None


class ExportConfig(Section):
    """How a PyTorch model becomes ONNX; `auto` tries dynamo, then torchscript, and takes the first right graph."""

    opset: int = Field(default=20, ge=18, le=23)
    exporter: Literal["auto", "dynamo", "torchscript"] = "auto"


class FoldConfig(Section):
    """Which tool folds constants, or `none`; YAML writes it `{with: polygraphy}`."""

    model_config = ConfigDict(populate_by_name=True)

    tool: Literal["graphsurgeon", "polygraphy", "none"] = Field(
        default="graphsurgeon", validation_alias="with", serialization_alias="with"
    )


class SigningConfig(Section):
    """`key` is the private key that promotions are signed with; `~` stands for the home folder."""

    key: PathText
