"""The whole of a pipelines.yaml as frozen values: pure data, checked in itself and against nothing else."""

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from tasks.core.config_checks import (
    calibrator_problems,
    complete,
    dim_problems,
    gate_problems,
    input_problems,
    metric_problems,
    point_problems,
    quantization_problems,
    variant_problems,
)
from tasks.core.config_fields import (
    RESERVED,
    FunctionRef,
    Name,
    PathText,
    Point,
    Problem,
    Root,
    Section,
    Source,
    refusal,
)
from tasks.core.config_interpreters import InterpreterConfig, interpreter_problems
from tasks.core.config_operations import KeepConfig, NotifyConfig, ScheduleConfig
from tasks.core.config_precision import (
    PRECISIONS,
    ExcludeConfig,
    PrecisionConfig,
    PrecisionKind,
    PruneConfig,
    RepairBounds,
    RepairConfig,
)
from tasks.core.config_sections import (
    RUNTIMES,
    BenchmarkConfig,
    CalibrationConfig,
    DataConfig,
    EngineConfig,
    EngineOptions,
    EvaluationConfig,
    ExportConfig,
    FoldConfig,
    GatesConfig,
    MetricConfig,
    ModelConfig,
    Objective,
    OnnxModel,
    ParityGate,
    PromoteConfig,
    RuntimeName,
    SigningConfig,
    TorchModel,
)
from tasks.core.signature import DimRange, InputSpec

__all__ = [
    "PRECISIONS",
    "RUNTIMES",
    "BenchmarkConfig",
    "CalibrationConfig",
    "Config",
    "DataConfig",
    "DimRange",
    "EngineConfig",
    "EngineOptions",
    "EvaluationConfig",
    "ExcludeConfig",
    "ExportConfig",
    "FoldConfig",
    "FunctionRef",
    "GatesConfig",
    "InputSpec",
    "InterpreterConfig",
    "KeepConfig",
    "MetricConfig",
    "ModelConfig",
    "NotifyConfig",
    "Objective",
    "OnnxModel",
    "ParityGate",
    "PathText",
    "PipelineConfig",
    "Point",
    "PrecisionConfig",
    "PrecisionKind",
    "PromoteConfig",
    "PruneConfig",
    "RepairBounds",
    "RepairConfig",
    "RuntimeName",
    "ScheduleConfig",
    "SigningConfig",
    "Source",
    "TorchModel",
    "complete",
]


class PipelineConfig(Section):
    """One model and everything that is made of it; its `notify` takes the place of the top level's."""

    reserved: ClassVar[tuple[str, ...]] = (*RESERVED, "keep")

    model: ModelConfig
    inputs: dict[str, InputSpec] | None = None
    outputs: tuple[str, ...] = ()
    dims: dict[str, DimRange] = Field(default_factory=dict)
    data: DataConfig = DataConfig()
    precisions: tuple[PrecisionConfig, ...] | None = Field(default=None, min_length=1)
    engines: tuple[EngineConfig, ...] | None = Field(default=None, min_length=1)
    gates: GatesConfig = GatesConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()
    promote: PromoteConfig = PromoteConfig()
    export: ExportConfig = ExportConfig()
    fold: FoldConfig = FoldConfig()
    schedule: ScheduleConfig | None = None
    on_retrain: bool = False
    notify: NotifyConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = list(_problems(self))
        if problems:
            raise refusal(problems)
        return self


def _problems(pipeline: PipelineConfig) -> Iterator[Problem]:
    inputs, dims = pipeline.inputs, pipeline.dims
    yield from _model_problems(pipeline)
    yield from dim_problems(dims)
    if inputs is not None:
        yield from input_problems(inputs, dims, all_inputs=isinstance(pipeline.model, TorchModel))
    known = inputs is not None or bool(dims)
    yield from point_problems(dims if known else None, pipeline.benchmark, pipeline.promote)
    yield from variant_problems(pipeline.precisions, pipeline.engines)
    yield from calibrator_problems(pipeline.precisions, pipeline.engines)
    yield from gate_problems(pipeline.precisions, pipeline.engines, pipeline.gates)
    yield from metric_problems(pipeline.data, pipeline.gates, pipeline.promote)
    yield from quantization_problems(pipeline.data, pipeline.precisions)


def _model_problems(pipeline: PipelineConfig) -> Iterator[Problem]:
    """List what only one kind of model has or needs."""
    outputs = pipeline.outputs
    if len(set(outputs)) < len(outputs):
        yield Problem("an output is named twice", "give each its own name", ("outputs",))
    if isinstance(pipeline.model, TorchModel):
        if pipeline.inputs is None:
            cure = "add inputs: {NAME: {dtype: float32, shape: [batch, 3, 224, 224]}} with its own dtype and shape"
            yield Problem("a torch model needs 'inputs'", cure)
        return
    if outputs:
        yield Problem("an ONNX model names its own outputs", "remove 'outputs'", ("outputs",))
    if pipeline.export != ExportConfig():
        yield Problem("an ONNX model is not exported", "remove 'export'", ("export",))


class Config(Section):
    """A pipelines.yaml: `store` is a folder beside it, or a URL.

    `signing` says with what promotions are signed, `trust` lists the public keys of which one must have signed.
    `checkpoints` are the folders and URL prefixes below which a checkpoint that an event names must lie; by default
    that is the folder of the pipeline's own.
    `keep` is what `gc` leaves, `notify` who is told of runs that go wrong.
    """

    reserved: ClassVar[tuple[str, ...]] = RESERVED

    version: Literal[1]
    store: PathText = "artifacts"
    signing: SigningConfig | None = None
    trust: tuple[PathText, ...] | None = Field(default=None, min_length=1)
    checkpoints: tuple[Root, ...] | None = Field(default=None, min_length=1)
    interpreters: dict[Name, InterpreterConfig] = Field(default_factory=dict)
    keep: KeepConfig | None = None
    notify: NotifyConfig | None = None
    pipelines: dict[Name, PipelineConfig] = Field(min_length=1)

    @model_validator(mode="after")
    def _interpreted(self) -> Self:
        problems = [
            problem._replace(path=("pipelines", name, *problem.path))
            for name, pipeline in self.pipelines.items()
            for problem in interpreter_problems(self.interpreters, pipeline.engines or ())
        ]
        if problems:
            raise refusal(problems)
        return self

    @field_validator("version", mode="before")
    @classmethod
    def _whole_number(cls, value: object) -> object:
        # Python holds True and 1.0 equal to 1, and a Literal goes by equality.
        if type(value) is not int or value != 1:
            raise refusal([Problem(f"found {value!r:.60}, expected the number 1", "write version: 1")])
        return value
