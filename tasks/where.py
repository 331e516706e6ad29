"""Step `where`: at which node of a typed graph the precision's error is made."""

from pathlib import Path
from typing import TypeAlias

from tasks.context import Context, Files, Work, params
from tasks.core.config import PrecisionConfig
from tasks.core.report import Artifact
from tasks.core.sets import GOLDEN
from tasks.core.store import Made
from tasks.core.tolerances import PARITY
from tasks.homes import ONNX
from tasks.runtimes.attribution import AttributionRequest, attribute
from tasks.step import StepOptions, step

OPTIONS = StepOptions("where", version=1)
# The exported graph, which knows the source's modules, the folded (or pruned) one, and the typed one made from that.
Graphs: TypeAlias = tuple[Artifact, Artifact, Artifact]


@step(OPTIONS)
def where(context: Context, data: Artifact, graphs: Graphs, precision: PrecisionConfig) -> Artifact:
    """Make where.json: the error of every inner tensor on the golden inputs, and what each added."""
    exported, folded, typed = graphs
    bound = PARITY[precision.kind].rel_l2
    recipe = context.recipe(OPTIONS, precision.name, tools=("onnxruntime", "onnx", "numpy"))
    recipe = context.using(
        recipe.model_copy(update={"params": {"rel_l2": bound}}),
        exported=Files(exported),
        folded=Files(folded),
        typed=Files(typed),
        golden=Files(data, (GOLDEN,)),
    )

    def make(folder: Path) -> Made:
        request = AttributionRequest(
            exported=context.model_file(exported),
            folded=context.model_file(folded),
            typed=context.model_file(typed),
            feeds=context.file(data, GOLDEN),
            bound=bound,
            folder=folder,
        )
        return Made(params(context.call(ONNX, attribute, request, folder)))

    return context.produce(Work(recipe, make))
