"""Step `calibrate`: what calibration found for one precision, and whether its data is worth trusting."""

from pathlib import Path

from tasks.context import Context, Files, Work, params
from tasks.core.config import PrecisionConfig
from tasks.core.report import Artifact
from tasks.core.sets import CALIBRATION, EVALUATION
from tasks.core.store import Made
from tasks.homes import ONNX
from tasks.sources.onnx_ranges import RangesRequest, read_ranges
from tasks.step import StepOptions, step

OPTIONS = StepOptions("calibrate", version=1)


@step(OPTIONS)
def calibrate(context: Context, data: Artifact, typed: Artifact, precision: PrecisionConfig) -> Artifact:
    """Make ranges.json: each quantised activation's range, clipping and outliers on the calibration data."""
    config = context.config.data.calibration
    asked = config.samples if config else None
    recipe = context.recipe(OPTIONS, precision.name, tools=("onnx", "onnxruntime", "numpy"))
    recipe = recipe.model_copy(update={"params": {"asked": asked}})
    recipe = context.using(recipe, typed=Files(typed), data=Files(data, (CALIBRATION, EVALUATION)))

    def make(folder: Path) -> Made:
        request = RangesRequest(
            model=context.model_file(typed),
            calibration=context.file(data, CALIBRATION),
            evaluation=context.optional_file(data, EVALUATION),
            folder=folder,
        )
        found = context.call(ONNX, read_ranges, request, folder)
        return Made(params(found.model_copy(update={"samples_asked": asked})))

    return context.produce(Work(recipe, make))
