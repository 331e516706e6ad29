"""Step `quantize`: one typed graph per precision; the runtime only compiles what the graph says."""

from pathlib import Path
from typing import Literal, assert_never

from tasks.context import Context, Files, Work, model_files, params
from tasks.core.config import PrecisionConfig
from tasks.core.report import Artifact
from tasks.core.sets import CALIBRATION, GOLDEN
from tasks.core.store import Made
from tasks.homes import MODELOPT, ONNX
from tasks.sources.onnx_cast import CastKind, CastRequest, cast_graph
from tasks.sources.onnx_quantize import QuantizedKind, QuantizeRequest, quantize_graph
from tasks.sources.onnx_typed import TypedRequest, take_typed
from tasks.step import StepOptions, step

OPTIONS = StepOptions("quantize", version=3)


@step(OPTIONS)
def quantize(context: Context, data: Artifact, folded: Artifact, precision: PrecisionConfig) -> Artifact:
    """Make the typed model.onnx of one precision."""
    if precision.by_tensorrt:
        return _as_it_is(context, folded, precision, "fp32")
    match precision.kind:
        case "fp32" | "typed":
            return _as_it_is(context, folded, precision, precision.kind)
        case "fp16" | "bf16":
            return _cast(context, data, folded, precision, precision.kind)
        case "int8" | "fp8" | "int4":
            return _quantized(context, data, folded, precision, precision.kind)
        case other:
            assert_never(other)


def _as_it_is(
    context: Context, folded: Artifact, precision: PrecisionConfig, kind: Literal["fp32", "typed"]
) -> Artifact:
    recipe = context.recipe(OPTIONS, precision.name).model_copy(update={"params": {"kind": kind}})
    recipe = context.using(recipe, folded=Files(folded))

    def make(folder: Path) -> Made:
        request = TypedRequest(model=context.model_file(folded), kind=kind, folder=folder)
        made = context.call(ONNX, take_typed, request, folder)
        context.link(folded, {name: name for name in model_files(context.store, folded)}, folder)
        return Made(params(made))

    return context.produce(Work(recipe, make))


def _cast(context: Context, data: Artifact, folded: Artifact, precision: PrecisionConfig, kind: CastKind) -> Artifact:
    recipe = context.recipe(OPTIONS, precision.name, tools=("nvidia-modelopt", "onnx", "onnxruntime", "numpy"))
    recipe = recipe.model_copy(update={"params": {"kind": precision.kind, "exclude": params(precision.exclude)}})
    recipe = context.using(recipe, folded=Files(folded), ranges=Files(data, (GOLDEN, CALIBRATION)))

    def make(folder: Path) -> Made:
        request = CastRequest(
            model=context.model_file(folded),
            kind=kind,
            golden=context.file(data, GOLDEN),
            calibration=context.optional_file(data, CALIBRATION),
            exclude_nodes=precision.exclude.nodes,
            exclude_op_types=precision.exclude.op_types,
            folder=folder,
        )
        with context.room_for(folded):
            return Made(params(context.call(MODELOPT, cast_graph, request, folder)))

    return context.produce(Work(recipe, make))


def _quantized(
    context: Context, data: Artifact, folded: Artifact, precision: PrecisionConfig, kind: QuantizedKind
) -> Artifact:
    wanted = precision.model_dump(mode="json", include={"kind", "method", "tool", "exclude"})
    recipe = context.recipe(OPTIONS, precision.name, tools=("nvidia-modelopt", "onnx", "onnxruntime", "numpy"))
    recipe = recipe.model_copy(update={"params": wanted})
    recipe = context.using(recipe, folded=Files(folded), ranges=Files(data, (CALIBRATION,)))

    def make(folder: Path) -> Made:
        assert precision.method is not None  # noqa: S101 - the config fills it in for these kinds
        request = QuantizeRequest(
            model=context.model_file(folded),
            kind=kind,
            method=precision.method,
            tool=precision.tool,
            calibration=context.optional_file(data, CALIBRATION),
            exclude_nodes=precision.exclude.nodes,
            exclude_op_types=precision.exclude.op_types,
            folder=folder,
        )
        with context.room_for(folded):
            return Made(params(context.call(MODELOPT, quantize_graph, request, folder)))

    return context.produce(Work(recipe, make))
