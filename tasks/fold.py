"""Step `fold`: the graph in the form that every tool takes, with its constants folded and unused nodes gone."""

from pathlib import Path

from tasks.context import Context, Files, Work, params
from tasks.core.report import Artifact
from tasks.core.sets import GOLDEN
from tasks.core.store import Made
from tasks.homes import ONNX
from tasks.sources.onnx_fold import FoldRequest, fold_graph
from tasks.step import StepOptions, step

OPTIONS = StepOptions("fold", version=4)


@step(OPTIONS)
def fold(context: Context, data: Artifact, exported: Artifact) -> Artifact:
    """Make a folded model.onnx that computes what the exported one does."""
    tool = context.config.fold.tool
    recipe = context.recipe(
        OPTIONS, tools=("onnx", "onnx-graphsurgeon", "onnxruntime", *(("polygraphy",) if tool == "polygraphy" else ()))
    )
    dims = {name: (dim.min, dim.max) for name, dim in context.config.dims.items()}
    recipe = recipe.model_copy(
        update={"params": {"tool": tool, "dims": {name: list(pair) for name, pair in dims.items()}}}
    )
    recipe = context.using(recipe, exported=Files(exported), golden=Files(data, (GOLDEN,)))

    def make(folder: Path) -> Made:
        golden = context.file(data, GOLDEN)
        model = context.model_file(exported)
        request = FoldRequest(model=model, tool=tool, golden=golden, folder=folder, dims=dims)
        made = context.call(ONNX, fold_graph, request, folder)
        context.link(exported, {name: name for name in made.facts.external_files}, folder)
        return Made(params(made))

    return context.produce(Work(recipe, make))
