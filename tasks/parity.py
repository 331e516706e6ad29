"""Step `parity`: an engine's outputs against the source's, and at which hop of the conversion the error was made."""

from pathlib import Path
from typing import Literal, TypeAlias

from tasks.context import Context, Files, Work, params
from tasks.core.errors import CannotRun
from tasks.core.frozen import Frozen
from tasks.core.report import Artifact
from tasks.core.sets import GOLDEN, GOLDEN_OUTPUTS
from tasks.core.store import Made
from tasks.engine_run import OUTPUTS, check_runs, gpu_of, opened_by, run_built
from tasks.homes import ONNX
from tasks.runtimes.base import CARD, ENGINE
from tasks.runtimes.engines import RunReply
from tasks.runtimes.judge import Hop, HopError, HopsRequest, JudgeMetrics, compare_hops
from tasks.step import StepOptions, step
from tasks.target import Target

OPTIONS = StepOptions("parity", version=1)
# The source's export, and what was judged of the exported, the folded, the typed and, where there is one, the pruned
# graph.
Hops: TypeAlias = tuple[Artifact, ...]
HopName = Literal["vs_source", "export", "fold", "prune", "precision_cost", "runtime_cost"]


class ParityMetrics(Frozen):
    """The error of each hop, and how the engine loaded.

    vs_source: engine against source framework. export, fold: that graph against the hop before it, unoptimised
    on ONNX Runtime. prune: the pruned graph against the folded one. precision_cost: the typed graph against the one
    that it was made from. runtime_cost: the engine against the typed graph.
    """

    hops: dict[HopName, HopError]
    run: RunReply


@step(OPTIONS)
def parity(context: Context, target: Target, data: Artifact, built: Artifact, hops: Hops) -> Artifact:
    """Run the engine on the golden inputs and compare hop by hop."""
    check_runs(context, built)
    source, exported, folded, typed, *pruned = hops
    judged = context.metrics(typed, JudgeMetrics)
    if judged.not_run:
        raise CannotRun(f"nothing judges the typed graph: {judged.not_run}")
    recipe = context.recipe(OPTIONS, target.id, tools=("numpy",))
    recipe = context.using(
        recipe.model_copy(update={"tools": recipe.tools | opened_by(context, target)}),
        engine=Files(built, (ENGINE, CARD)),
        golden=Files(data, (GOLDEN,)),
        source=Files(source, (GOLDEN_OUTPUTS,)),
        exported=Files(exported, (OUTPUTS,)),
        folded=Files(folded, (OUTPUTS,)),
        typed=Files(typed, (OUTPUTS,)),
        **({"pruned": Files(pruned[0], (OUTPUTS,))} if pruned else {}),
    )

    def make(folder: Path) -> Made:
        run = run_built(context, built, context.file(data, GOLDEN), folder, target.run_on)
        by_graph = {name: context.file(judged, OUTPUTS) for name, judged in zip(_GRAPHS, hops[1:], strict=False)}
        request = HopsRequest(
            hops=_hops(folder / OUTPUTS, context.file(source, GOLDEN_OUTPUTS), by_graph),
            feeds=context.file(data, GOLDEN),
            outputs=folder / OUTPUTS,
            runner=target.id,
            folder=folder,
        )
        errors = context.call(ONNX, compare_hops, request, folder)
        return Made(params(ParityMetrics.model_validate({"hops": errors.hops, "run": run})))

    return context.produce(Work(recipe, make, gpu=gpu_of(context, built)))


_GRAPHS = ("exported", "folded", "typed", "pruned")


def _hops(engine: Path, source: Path, graphs: dict[str, Path]) -> dict[str, Hop]:
    before = graphs.get("pruned", graphs["folded"])
    prune = {"prune": Hop(actual=before, expected=graphs["folded"])} if "pruned" in graphs else {}
    return {
        "vs_source": Hop(actual=engine, expected=source),
        "export": Hop(actual=graphs["exported"], expected=source),
        "fold": Hop(actual=graphs["folded"], expected=graphs["exported"]),
        **prune,
        "precision_cost": Hop(actual=graphs["typed"], expected=before),
        "runtime_cost": Hop(actual=engine, expected=graphs["typed"]),
    }
