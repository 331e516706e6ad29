"""What the charts of a run are drawn from: plain figures of its record and reports."""

from collections.abc import Callable, Iterator

from flows.asked import asked_of
from flows.evidence import Evidence, source_framework
from flows.speed import timed as timed_at
from flows.story import point_text
from tasks.charts import Chart
from tasks.core.config import PipelineConfig, complete
from tasks.core.metrics import UNBOUNDED
from tasks.core.outcome import EngineOutcome, LatencyOutcome
from tasks.drawings.figures import HopRow, Hops, Latency, Pareto, Quality, Refused, Sweep, Timing
from tasks.runtimes.timing import PointFigures

_SMALLEST_ERROR = 1e-9
# Of fewer points the chart of the latencies and the table tell all.
_FEWEST_POINTS = 3


def charts_of(found: Evidence, config: PipelineConfig) -> Iterator[Chart]:
    """The charts for which there is something to draw."""
    called = labels(found)
    rows = tuple(
        HopRow(name=called(engine.id), hops=hops, refused=engine.status != "passed")
        for engine in found.results
        if len(hops := found.hops(engine)) > 1
    )
    if rows:
        yield Hops(rows=rows)
    points = found.measured.points if found.measured else ()
    if not points:
        return
    baselines = found.baselines()
    names = tuple(dict.fromkeys(point.name for point in points))
    yield Latency(points=_texts(points), labels={name: called(name) for name in names}, baselines=baselines)
    if len(_texts(points)) >= _FEWEST_POINTS:
        yield _sweep(points, baselines, called)
    pareto = _pareto(found, config)
    if len(pareto.results) > 1:
        yield pareto


def labels(found: Evidence) -> Callable[[str], str]:
    """What a chart calls a result: where there is one engine only, its name says nothing."""
    engines = {engine.engine for engine in found.results}
    common = f"{engines.pop()}/" if len(engines) == 1 else ""
    return lambda name: name.removeprefix(common)


def _texts(points: tuple[PointFigures, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(point_text(point.at) for point in points))


def _sweep(points: tuple[PointFigures, ...], baselines: tuple[str, ...], called: Callable[[str], str]) -> Sweep:
    """Points are told apart by the dims that vary."""
    varying = [dim for dim in points[0].at if len({point.at.get(dim) for point in points}) > 1]

    def short(point: PointFigures) -> str:
        return point_text({dim: size for dim, size in point.at.items() if dim in varying})

    timings = tuple(
        Timing(
            name=called(point.name),
            point=short(point),
            p50_ms=point.latency_p50_ms,
            throughput_per_s=point.throughput_per_s,
            baseline=point.name in baselines,
        )
        for point in points
    )
    return Sweep(points=tuple(dict.fromkeys(map(short, points))), timings=timings)


def objective_point(config: PipelineConfig, engine: EngineOutcome) -> LatencyOutcome | None:
    """The point that the objective is read at, else the first that was measured."""
    wanted = None if config.promote.at is None else complete(config.promote.at, config.dims)
    return next((point for point in engine.latency if wanted in (None, point.at)), next(iter(engine.latency), None))


def metric_name(config: PipelineConfig) -> str | None:
    """What the user's metric is called."""
    evaluation = config.data.evaluation
    return evaluation.metric.function.partition(":")[2] if evaluation and evaluation.metric else None


def _pareto(found: Evidence, config: PipelineConfig) -> Pareto:
    metric, called = metric_name(config), labels(found)
    evaluation = config.data.evaluation
    rises = bool(metric and evaluation and evaluation.metric and evaluation.metric.higher_is_better)
    promoted = found.record.outcome.promoted
    timed = [(engine, point) for engine in found.results if (point := objective_point(config, engine))]
    framework = source_framework(found)
    source = timed_at(found, framework, timed[0][1].at) if framework and timed else None
    return Pareto(
        results=tuple(
            Quality(
                name=called(engine.id),
                p50_ms=point.p50_ms,
                quality=quality,
                promoted=promoted is not None and engine.id == promoted.id,
            )
            for engine, point in timed
            if (quality := _quality(engine, metric)) is not None
        ),
        quality=metric or "relative L2 error",
        rises=rises,
        source=found.record.source_metric if metric else None,
        point=point_text(timed[0][1].at) if timed else "",
        logarithmic=metric is None,
        refused=tuple(
            Refused(name=called(engine.id), quality=quality)
            for engine in found.results
            if engine.status == "failed" and not engine.latency
            if (quality := _quality(engine, metric)) is not None and quality < UNBOUNDED
        ),
        limit=asked_of(config).limit(found.record.source_metric),
        source_ms=source.latency_p50_ms if source else None,
    )


def _quality(engine: EngineOutcome, metric: str | None) -> float | None:
    if metric:
        return engine.metric
    return max(engine.parity.vs_source.rel_l2, _SMALLEST_ERROR) if engine.parity else None
