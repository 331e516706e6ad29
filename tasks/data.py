"""Step `data`: what calibration, evaluation and parity will use, read from the user's sources once and kept."""

from pathlib import Path

from tasks.context import Context, Work, params
from tasks.core.config import CalibrationConfig, EvaluationConfig, TorchModel
from tasks.core.report import Artifact
from tasks.core.signature import Signature
from tasks.core.store import Made
from tasks.homes import ONNX, PLAIN, user_home
from tasks.sources.collect import DataRequest, DataSource, collect
from tasks.sources.declared import extra_files
from tasks.step import StepOptions, step

OPTIONS = StepOptions("data", version=2, tags=("user-code",))


@step(OPTIONS)
def prepare_data(context: Context, signature: Signature) -> Artifact:
    """Read the user's sources and keep calibration, evaluation and golden inputs."""
    data = context.config.data
    request = DataRequest(
        project=context.project,
        signature=signature,
        calibration=_source(data.calibration),
        evaluation=_source(data.evaluation),
        folder=Path(),
    )
    wanted = request.model_dump(mode="json", exclude={"project", "folder"})
    recipe = context.recipe(OPTIONS, tools=("numpy", "safetensors"))
    recipe = recipe.model_copy(update={"params": wanted, "sources": extra_files(context)})

    # Where all is generated no process for the user's code is started: that for graphs every run needs.
    home = PLAIN if request.calibration or request.evaluation else ONNX

    def make(folder: Path) -> Made:
        if isinstance(context.config.model, TorchModel) or (data.evaluation and data.evaluation.metric):
            context.warm(user_home(context.config.model))  # torch's import goes on beside this step
        reply = context.call(home, collect, request.model_copy(update={"folder": folder}), folder)
        return Made(params(reply.metrics), reply.observed)

    return context.produce(Work(recipe, make, observing=True))


def _source(config: CalibrationConfig | EvaluationConfig | None) -> DataSource | None:
    if config is None:
        return None
    synthetic = isinstance(config, EvaluationConfig) and config.synthetic
    return DataSource(source=config.source, samples=config.samples, synthetic=synthetic)
