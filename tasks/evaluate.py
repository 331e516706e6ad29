"""Step `evaluate`: the user's metric of an engine, or of the source framework, on the evaluation data."""

from pathlib import Path

from tasks.context import Context, Files, Work, params
from tasks.core.config import MetricConfig
from tasks.core.frozen import Frozen
from tasks.core.report import Artifact
from tasks.core.sets import EVALUATION, EVALUATION_OUTPUTS, TARGETS
from tasks.core.store import Made
from tasks.engine_run import OUTPUTS, check_runs, gpu_of, opened_by, run_built
from tasks.homes import user_home
from tasks.runtimes.base import CARD, ENGINE
from tasks.sources.declared import extra_files
from tasks.sources.onnx_graph import ExportMetrics
from tasks.sources.user_metric import MetricRequest, measure
from tasks.step import StepOptions, step
from tasks.target import Target

OPTIONS = StepOptions("evaluate", version=2, tags=("user-code",))
SOURCE = "source"


class EvaluateMetrics(Frozen):
    """The value of the user's metric; `noised` are its values for ruined outputs of the source."""

    value: float
    noised: tuple[float, ...] = ()


def metric_of(context: Context) -> MetricConfig | None:
    """The metric that the pipeline is judged by, if it has one."""
    evaluation = context.config.data.evaluation
    return evaluation.metric if evaluation else None


@step(OPTIONS)
def evaluate(
    context: Context, subject: Target | str, data: Artifact, exported: Artifact, built: Artifact | None
) -> Artifact:
    """Score an engine's outputs, or with no engine those of the source framework; `subject` is a result, or a name."""
    metric = metric_of(context)
    assert metric is not None  # noqa: S101 - the flow submits this step only where there is a metric
    if built:
        check_runs(context, built)
    axes = context.metrics(exported, ExportMetrics).facts.later_axes
    target = subject if isinstance(subject, Target) else None
    recipe = context.recipe(OPTIONS, target.id if target else str(subject), tools=("numpy",))
    recipe = recipe.model_copy(
        update={
            "params": {"function": metric.function, **({"axes": axes} if axes else {})},
            "sources": extra_files(context),
            "tools": recipe.tools | (opened_by(context, target) if target else {}),
        }
    )
    inputs = {
        "feeds": Files(data, (EVALUATION, TARGETS)),
        "reference": Files(exported, (EVALUATION_OUTPUTS,)),
        **({"engine": Files(built, (ENGINE, CARD))} if built else {}),
    }

    def make(folder: Path) -> Made:
        reference = context.file(exported, EVALUATION_OUTPUTS)
        if built:
            run_on = target.run_on if target else ""
            run_built(context, built, context.file(data, EVALUATION), folder, run_on)
        request = MetricRequest(
            project=context.project,
            function=metric.function,
            outputs=folder / OUTPUTS if built else reference,
            targets=context.file(data, TARGETS),
            reference=reference,
            folder=folder,
            noised=built is None,
            axes=axes,
        )
        reply = context.call(user_home(context.config.model), measure, request, folder)
        return Made(params(EvaluateMetrics(value=reply.value, noised=reply.noised)), reply.observed)

    gpu = gpu_of(context, built) if built else None
    return context.produce(Work(context.using(recipe, **inputs), make, observing=True, gpu=gpu))
