"""Step `prune`: the folded graph with its smallest weights at zero, before it is brought to a precision."""

from pathlib import Path

from tasks.context import Context, Files, Work, params
from tasks.core.config import PrecisionConfig
from tasks.core.report import Artifact
from tasks.core.store import Made
from tasks.homes import ONNX
from tasks.sources.onnx_prune import PruneRequest, prune_graph
from tasks.step import StepOptions, step

OPTIONS = StepOptions("prune", version=1)


@step(OPTIONS)
def prune(context: Context, folded: Artifact, precision: PrecisionConfig) -> Artifact:
    """Make the model.onnx that one precision is quantised from."""
    config = precision.prune
    assert config is not None  # noqa: S101 - the flow submits this step only where there is something to prune
    recipe = context.recipe(OPTIONS, precision.name, tools=("numpy", "onnx"))
    recipe = context.using(recipe.model_copy(update={"params": params(config)}), folded=Files(folded))

    def make(folder: Path) -> Made:
        request = PruneRequest(
            model=context.model_file(folded), pattern=config.pattern, sparsity=config.sparsity, folder=folder
        )
        return Made(params(context.call(ONNX, prune_graph, request, folder)))

    return context.produce(Work(recipe, make))
