"""Step `lower`: a typed graph in the opset that an older TensorRT reads, held against the graph that it was."""

from pathlib import Path

from tasks.context import Context, Files, Work, params
from tasks.core.report import Artifact
from tasks.core.sets import GOLDEN
from tasks.core.store import Made
from tasks.homes import ONNX
from tasks.runtimes.tensorrt_dialects import Reads
from tasks.sources.onnx_lower import MODEL, LowerRequest, lower_graph
from tasks.step import StepOptions, step
from tasks.target import Target

OPTIONS = StepOptions("lower", version=1)


@step(OPTIONS)
def lower(context: Context, target: Target, data: Artifact, typed: Artifact, reads: Reads) -> Artifact:
    """Make the model.onnx that the build takes; raise StepError where it computes something else."""
    precision = target.precision
    recipe = context.recipe(OPTIONS, target.id, tools=("onnx", "onnxruntime", "numpy"))
    recipe = recipe.model_copy(update={"params": {"kind": precision.kind, **params(reads)}})
    recipe = context.using(recipe, typed=Files(typed), golden=Files(data, (GOLDEN,)))

    def make(folder: Path) -> Made:
        request = LowerRequest(
            model=context.model_file(typed),
            kind=precision.kind,
            opset=reads.opset,
            ir_version=reads.ir_version,
            golden=context.file(data, GOLDEN),
            folder=folder,
        )
        with context.room_for(typed):
            made = context.call(ONNX, lower_graph, request, folder)
        names = (*([MODEL] if made.unchanged else []), *made.facts.external_files)
        context.link(typed, {name: name for name in names}, folder)
        return Made(params(made))

    return context.produce(Work(recipe, make))
