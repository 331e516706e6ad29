"""Step `charts`: one chart of a report, as SVG in the page's colours."""

from pathlib import Path
from typing import TypeAlias

from tasks.context import Context, Files, Work, params
from tasks.core.report import Artifact
from tasks.core.store import Made
from tasks.drawings.figures import DrawRequest, History, Hops, Latency, Pareto, Sweep
from tasks.homes import DRAWING
from tasks.step import StepOptions, step

OPTIONS = StepOptions("charts", version=2)
SAMPLES = "samples.npz"
Chart: TypeAlias = Hops | Latency | Sweep | Pareto | History


@step(OPTIONS)
def charts(context: Context, chart: Chart, benchmark: Artifact | None = None) -> Artifact:
    """Draw; the chart of the latencies is drawn from the benchmark's own samples."""
    recipe = context.recipe(OPTIONS, chart.kind, tools=("matplotlib", "numpy"))
    recipe = recipe.model_copy(update={"params": params(chart)})
    if benchmark:
        recipe = context.using(recipe, samples=Files(benchmark, (SAMPLES,)))

    def make(folder: Path) -> Made:
        from tasks.drawings.draw import draw  # a run in which nothing is drawn does without

        samples = context.file(benchmark, SAMPLES) if benchmark else None
        request = DrawRequest(chart=chart, samples=samples, folder=folder)
        return Made(params(context.call(DRAWING, draw, request, folder)))

    return context.produce(Work(recipe, make))
