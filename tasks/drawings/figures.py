"""What each chart is drawn from: plain figures, which decide its key."""

from pathlib import Path
from typing import Literal

from tasks.core.frozen import Frozen

ChartName = Literal["hops", "latency", "sweep", "pareto", "history"]


class HopRow(Frozen):
    """One result: the relative L2 error of each hop, and the bound of its gate where there is one."""

    name: str
    hops: dict[str, float]
    refused: bool


class Timing(Frozen):
    """One candidate or baseline at one point of the benchmark."""

    name: str
    point: str
    p50_ms: float
    throughput_per_s: float
    baseline: bool


class Quality(Frozen):
    """One result that was timed at the objective's point, with its quality."""

    name: str
    p50_ms: float
    quality: float
    promoted: bool


class Refused(Frozen):
    """One result that was refused, with its quality; what was refused is not timed."""

    name: str
    quality: float


class Hops(Frozen):
    """Chart: where the error was made."""

    kind: Literal["hops"] = "hops"
    rows: tuple[HopRow, ...]


class Latency(Frozen):
    """Chart: how latencies scatter; the samples themselves are read from the benchmark's file."""

    kind: Literal["latency"] = "latency"
    points: tuple[str, ...]
    labels: dict[str, str]  # what to call each of those that were timed, by its name in the file
    baselines: tuple[str, ...]


class Sweep(Frozen):
    """Chart: latency and throughput over the points of the benchmark."""

    kind: Literal["sweep"] = "sweep"
    points: tuple[str, ...]
    timings: tuple[Timing, ...]


class Pareto(Frozen):
    """Chart: quality against latency; `rises` tells whether more of the quality is better.

    `limit` is the worst quality that is accepted, `source_ms` the latency of the source framework.
    """

    kind: Literal["pareto"] = "pareto"
    results: tuple[Quality, ...]
    quality: str
    rises: bool
    source: float | None
    point: str
    logarithmic: bool = False
    refused: tuple[Refused, ...] = ()
    limit: float | None = None
    source_ms: float | None = None


class Measured(Frozen):
    """One result in one measurement of a pipeline's history; the time is in seconds since 1970."""

    at: float
    name: str
    p50_ms: float | None
    metric: float | None


class Decision(Frozen):
    """One promotion or rollback."""

    at: float
    kind: Literal["promotion", "rollback"]
    name: str


class History(Frozen):
    """Chart: latency and metric over time, with what was promoted when."""

    kind: Literal["history"] = "history"
    measured: tuple[Measured, ...]
    decisions: tuple[Decision, ...]
    point: str


class DrawRequest(Frozen):
    """One chart, and where to write its SVG files; `samples` is the benchmark's file."""

    chart: Hops | Latency | Sweep | Pareto | History
    samples: Path | None = None
    folder: Path


class DrawReply(Frozen):
    """Titles of the pictures by file name, in the order in which they are shown: what somebody hears who sees none."""

    pictures: dict[str, str]
