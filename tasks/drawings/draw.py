"""Draw one chart (in a worker)."""

from typing import assert_never

from tasks.core.errors import StepError
from tasks.drawings.figures import DrawReply, DrawRequest, History, Hops, Latency, Pareto, Sweep
from tasks.drawings.history import draw_history
from tasks.drawings.hops import draw_hops
from tasks.drawings.latency import draw_latency
from tasks.drawings.pareto import draw_pareto
from tasks.drawings.sweep import draw_sweep


def draw(request: DrawRequest) -> DrawReply:
    """Write the chart's SVG files."""
    match request.chart:
        case Hops() as chart:
            return DrawReply(pictures=draw_hops(chart, request.folder))
        case Latency() as chart:
            if request.samples is None:
                raise StepError("there are no samples to draw latencies from", "measure again: --rebenchmark")
            return DrawReply(pictures=draw_latency(chart, request.samples, request.folder))
        case Sweep() as chart:
            return DrawReply(pictures=draw_sweep(chart, request.folder))
        case Pareto() as chart:
            return DrawReply(pictures=draw_pareto(chart, request.folder))
        case History() as chart:
            return DrawReply(pictures=draw_history(chart, request.folder))
        case other:
            assert_never(other)
