"""Step `judge`: what a graph itself computes on the golden inputs, unoptimised on ONNX Runtime."""

from pathlib import Path

from tasks.context import Context, Files, Work, params
from tasks.core.report import Artifact
from tasks.core.sets import GOLDEN
from tasks.core.store import Made
from tasks.homes import ONNX
from tasks.runtimes.judge import JudgeRequest, judge_graph
from tasks.step import StepOptions, step

OPTIONS = StepOptions("judge", version=1)


@step(OPTIONS)
def judge(context: Context, data: Artifact, graph: Artifact, subject: str) -> Artifact:
    """Make outputs.safetensors: the reference that every later hop is compared with."""
    recipe = context.recipe(OPTIONS, subject, tools=("onnxruntime",))
    recipe = context.using(recipe, graph=Files(graph), golden=Files(data, (GOLDEN,)))

    def make(folder: Path) -> Made:
        request = JudgeRequest(model=context.model_file(graph), feeds=context.file(data, GOLDEN), folder=folder)
        return Made(params(context.call(ONNX, judge_graph, request, folder)))

    return context.produce(Work(recipe, make))
