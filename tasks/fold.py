"""Step `fold`: the graph with its constants folded and its unused nodes gone."""

from pathlib import Path

from tasks.context import Context, Files, Work, params
from tasks.core.report import Artifact
from tasks.core.store import Made
from tasks.homes import ONNX
from tasks.sources.onnx_fold import FoldRequest, fold_graph
from tasks.step import StepOptions, step

OPTIONS = StepOptions("fold", version=3)


@step(OPTIONS)
def fold(context: Context, exported: Artifact) -> Artifact:
    """Make a folded model.onnx that computes what the exported one does."""
    tool = context.config.fold.tool
    recipe = context.recipe(
        OPTIONS, tools=("onnx", "onnx-graphsurgeon", *(("polygraphy",) if tool == "polygraphy" else ()))
    )
    recipe = context.using(recipe.model_copy(update={"params": {"tool": tool}}), exported=Files(exported))

    def make(folder: Path) -> Made:
        request = FoldRequest(model=context.model_file(exported), tool=tool, folder=folder)
        made = context.call(ONNX, fold_graph, request, folder)
        context.link(exported, {name: name for name in made.facts.external_files}, folder)
        return Made(params(made))

    return context.produce(Work(recipe, make))
