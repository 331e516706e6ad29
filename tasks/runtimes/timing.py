"""From raw times to figures: percentiles, noise, ratios with an interval (in a worker)."""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.feeds import samples_in
from tasks.core.frozen import Frozen
from tasks.core.range_points import RangePoint
from tasks.core.signature import Signature
from tasks.core.tensors import load_batches, save_batches

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# A percentile is told only where at least this many samples lie above it in expectation.
SAMPLES_ABOVE = 1
RESAMPLES = 2000
# A bootstrap over fewer rounds is far too sure of itself: its 95 % interval holds the truth in 75 % of cases at three
# rounds, 85 % at five, 89 % at eight, 93 % at twenty.
FEWEST_ROUNDS = 8
SEED = 1
# Rounds whose medians scatter by more than this, relative to their mean, are called noisy.
NOISY = 0.10


class PointsRequest(Frozen):
    """Feeds to make for the points of a benchmark, from golden inputs.

    `lowered`: the source took integer inputs at some sizes only below the smallest dim.
    """

    golden: Path
    signature: Signature
    points: tuple[dict[str, int], ...]
    feeds: Path
    lowered: bool = False


class PointsReply(Frozen):
    """Samples in one inference, by point."""

    samples: tuple[int, ...]


class TimedRounds(Frozen):
    """Raw times in nanoseconds, by round in the order in which they were taken."""

    name: str
    rounds: tuple[tuple[int, ...], ...]


class PointSamples(Frozen):
    """All candidates and baselines at one point; round i of each was taken right after round i of the others."""

    at: dict[str, int]
    samples_per_inference: int
    timed: tuple[TimedRounds, ...]


class Comparison(Frozen):
    """Which baseline a candidate is compared with."""

    candidate: str
    against: str


class FiguresRequest(Frozen):
    """Raw times to sum up, and where to keep them; `rivals` are compared beside what a report shows."""

    points: tuple[PointSamples, ...]
    comparisons: tuple[Comparison, ...]
    rivals: tuple[Comparison, ...] = ()
    samples: Path


class Speedup(Frozen):
    """How many times faster than `against`: median over rounds of the ratio of the two medians of a round.

    `ci95` is a percentile bootstrap interval over rounds; None where they are too few.
    """

    against: str
    ratio: float
    ci95: tuple[float, float] | None


class PointFigures(Frozen):
    """Latency of one candidate at one point: percentiles of the pooled samples, None where they are too few.

    `speedups` are against what reports compare it with, `rivals` against all others that might take its place.
    """

    name: str
    at: dict[str, int]
    count: int
    latency_p50_ms: float
    latency_p90_ms: float | None
    latency_p99_ms: float | None
    latency_mean_ms: float
    throughput_per_s: float
    round_variation: float
    noisy: bool
    speedups: tuple[Speedup, ...]
    rivals: tuple[Speedup, ...] = ()


class Figures(Frozen):
    """All figures of a benchmark."""

    points: tuple[PointFigures, ...]


def prepare_points(request: PointsRequest) -> PointsReply:
    """Write one batch of feeds for each point."""
    golden = load_batches(request.golden)[0]
    points = [RangePoint(sizes=point, lowered=request.lowered and bool(point)) for point in request.points]
    batches = [point.feeds(golden, request.signature) for point in points]
    save_batches(request.feeds, batches)
    return PointsReply(samples=tuple(samples_in(batch, request.signature.batch_axes()) for batch in batches))


def sum_up(request: FiguresRequest) -> Figures:
    """Compute the figures and keep every raw sample."""
    import numpy as np

    raw = {
        f"{index}/{timed.name}/{number}": np.asarray(times, dtype=np.int64)
        for index, point in enumerate(request.points)
        for timed in point.timed
        for number, times in enumerate(timed.rounds)
    }
    np.savez_compressed(request.samples, **raw)  # type: ignore[arg-type]
    return Figures(points=tuple(_figures(p, t, request) for p in request.points for t in p.timed))


def _figures(point: PointSamples, timed: TimedRounds, request: FiguresRequest) -> PointFigures:
    import numpy as np

    pooled = np.concatenate([np.asarray(times, dtype=np.float64) for times in timed.rounds]) / 1e6
    medians = _medians(timed)
    variation = float(np.std(medians) / np.mean(medians))
    by_name = {other.name: other for other in point.timed}

    def compared(comparisons: tuple[Comparison, ...]) -> tuple[Speedup, ...]:
        others = [c.against for c in comparisons if c.candidate == timed.name and c.against in by_name]
        return tuple(_speedup(timed, by_name[name]) for name in others)

    return PointFigures(
        name=timed.name,
        at=point.at,
        count=pooled.size,
        latency_p50_ms=float(np.percentile(pooled, 50)),
        latency_p90_ms=_percentile(pooled, 90),
        latency_p99_ms=_percentile(pooled, 99),
        latency_mean_ms=float(pooled.mean()),
        throughput_per_s=1000.0 * point.samples_per_inference / float(pooled.mean()),
        round_variation=variation,
        noisy=variation > NOISY,
        speedups=compared(request.comparisons),
        rivals=compared(request.rivals),
    )


def _medians(timed: TimedRounds) -> "NDArray[np.float64]":
    import numpy as np

    return np.asarray([np.median(times) for times in timed.rounds], dtype=np.float64)


def _percentile(pooled: "NDArray[np.float64]", percent: int) -> float | None:
    import numpy as np

    if pooled.size * (100 - percent) < 100 * SAMPLES_ABOVE:
        return None
    return float(np.percentile(pooled, percent))


def _speedup(timed: TimedRounds, baseline: TimedRounds) -> Speedup:
    import numpy as np

    pairs = min(len(timed.rounds), len(baseline.rounds))
    logs = np.log(_medians(baseline)[:pairs] / _medians(timed)[:pairs])
    ratio = float(np.exp(np.median(logs)))  # a stalled turn of one side moves a mean, and not a median
    if pairs < FEWEST_ROUNDS:
        return Speedup(against=baseline.name, ratio=ratio, ci95=None)
    picks = np.random.default_rng(SEED).integers(0, pairs, (RESAMPLES, pairs))
    low, high = np.exp(np.percentile(np.median(logs[picks], axis=1), (2.5, 97.5)))
    return Speedup(against=baseline.name, ratio=ratio, ci95=(float(low), float(high)))
