"""Figures of an engine on a GPU beside its latency: its parts, with and without a CUDA graph, and several streams."""

from tasks.core.errors import StepError
from tasks.core.frozen import Frozen
from tasks.core.tensors import Tensors
from tasks.runtimes.base import Samples
from tasks.runtimes.gpu_session import GpuSession


class StreamFigures(Frozen):
    """Inferences a second, by so many streams at once, each with an execution context of its own."""

    streams: int
    inferences_per_s: float


class GpuFigures(Frozen):
    """Medians of what an inference takes on the GPU, by CUDA events; memory of the host is pinned.

    launched, graph: the inference launched layer by layer, or as one captured graph; None where it cannot be captured.
    h2d, compute, d2h: inputs to the GPU, the inference (launched), outputs back, one after the other. streams_missing:
    why a number of streams that was asked for has no figure.
    """

    launched_p50_ms: float
    graph_p50_ms: float | None
    h2d_p50_ms: float
    compute_p50_ms: float
    d2h_p50_ms: float
    streams: tuple[StreamFigures, ...] = ()
    streams_missing: str = ""


def gpu_figures(session: GpuSession, feeds: Tensors, seconds: float, streams: tuple[int, ...]) -> GpuFigures:
    """Measure each for `seconds`."""
    launched = session.latencies(feeds, seconds, graph=False)
    graph = session.latencies(feeds, seconds, graph=True)
    transfers = session.transfers(feeds, seconds)
    flows, missing = [], ""
    for count in streams:
        try:
            flow = session.flow(feeds, count, seconds)
        except StepError as error:  # a second context may be what the engine or the memory does not allow
            missing = f"{count} streams: {error.message}"
            break
        flows.append(StreamFigures(streams=count, inferences_per_s=flow.inferences * 1e9 / flow.nanoseconds))
    return GpuFigures(
        launched_p50_ms=_median_ms(launched or transfers.compute),
        graph_p50_ms=_median_ms(graph) if graph else None,
        h2d_p50_ms=_median_ms(transfers.h2d),
        compute_p50_ms=_median_ms(transfers.compute),
        d2h_p50_ms=_median_ms(transfers.d2h),
        streams=tuple(flows),
        streams_missing=missing,
    )


def _median_ms(samples: Samples) -> float:
    from statistics import median  # not for the run that only reads such figures

    return median(samples.nanoseconds) / 1e6
