"""Step `facts`: what the folded graph costs at the usual sizes: parameters, multiply-adds, bytes."""

from pathlib import Path

from tasks.context import Context, Files, Work, params
from tasks.core.report import Artifact
from tasks.core.signature import Signature
from tasks.core.store import Made
from tasks.homes import ONNX
from tasks.sources.onnx_flops import FlopsRequest, count_flops
from tasks.step import StepOptions, step

OPTIONS = StepOptions("facts", version=1)


@step(OPTIONS)
def facts(context: Context, signature: Signature, folded: Artifact) -> Artifact:
    """Count with every dim at its opt; the weights' values are not read, so external data is left alone."""
    sizes = signature.sizes("opt")
    recipe = context.recipe(OPTIONS, tools=("onnx", "onnx-graphsurgeon"))
    recipe = recipe.model_copy(update={"params": {"sizes": dict(sizes)}})

    def make(folder: Path) -> Made:
        request = FlopsRequest(model=context.file(folded, "model.onnx"), sizes=sizes)
        return Made(params(context.call(ONNX, count_flops, request, folder)))

    return context.produce(Work(context.using(recipe, folded=Files(folded, ("model.onnx",))), make))
