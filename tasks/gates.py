"""Does an engine pass? Pure functions from what was measured and what the YAML asks to a verdict."""

from collections.abc import Sequence

from pydantic import FiniteFloat

from tasks.core.config import GatesConfig, MetricConfig, ParityGate
from tasks.core.config_fields import suggest
from tasks.core.config_sections import ParityBounds
from tasks.core.frozen import Frozen
from tasks.core.metrics import worst
from tasks.core.outcome import EngineStatus
from tasks.core.tolerances import PARITY, Tolerance, excess
from tasks.runtimes.judge import HopError
from tasks.runtimes.timing import Speedup
from tasks.target import Target

# Absolute; one point of top-1 is what int8 is commonly allowed to cost.
DEFAULT_METRIC_DROP = 0.01
# Share of the value by which noise must win before a metric is suspected.
_CLEAR_LEAD = 0.05


class Verdict(Frozen):
    """Whether a result may be promoted, and why or why not."""

    status: EngineStatus
    reason: str


class Score(Frozen):
    """The user's metric of an engine and of the source framework."""

    engine: FiniteFloat  # NaN would pass every comparison
    source: FiniteFloat


class Rivalry(Frozen):
    """How a result compares with the engine that is promoted.

    `speedup` is the result's against it, at the point by which the pipeline promotes; `metrics` are the result's and
    that engine's, on the same data; `missing` is why a comparison that is not there could not be made.
    """

    promoted: str
    speedup: Speedup | None
    metrics: tuple[FiniteFloat, FiniteFloat] | None
    missing: str = ""


def judge_parity(target: Target, gates: GatesConfig, error: HopError, *, metric: bool) -> Verdict:
    """Judge the outputs.

    NaN always fails, and so does a bound that the YAML sets. The default bounds decide only where there is no
    metric: the metric is what the user cares for, a tensor's distance is a stand-in for it.
    """
    if not error.worst.finite:
        return Verdict(status="failed", reason="parity: the outputs hold NaN or Inf")
    empty = _not_compared(error)
    declared = _declared(target, gates)
    if declared is not None:
        broken = [*_declared_excess(error, declared), *([] if metric else empty)]
        return _failed("parity", broken) if broken else Verdict(status="passed", reason="parity within its gates")
    broken = [*excess(error.worst, PARITY[target.precision.kind]), *empty]
    if broken and not metric:
        return _failed(f"parity (default bounds of {target.precision.kind})", broken)
    if broken:
        return Verdict(status="passed", reason=f"beyond the usual parity ({'; '.join(broken)}), its metric decides")
    return Verdict(status="passed", reason="parity within the usual bounds")


def _not_compared(error: HopError) -> list[str]:
    """Say where there was nothing to compare, which is no agreement."""
    cure = "give evaluation data on which the model finds something, or a metric"
    if not error.worst.compared:
        return [f"nothing was compared: all outputs are empty or zero on the golden inputs ({cure})"]
    empty = [name for name in error.empty if name in error.outputs]
    if empty:
        return [f"nothing was compared of {', '.join(map(repr, empty))}, empty on the golden inputs ({cure})"]
    return []


def _declared_excess(error: HopError, gate: ParityGate) -> list[str]:
    """Break the bounds of the YAML: those of an output by its name, those of all by the worst of the others."""
    unknown = [name for name in gate.outputs if name not in error.outputs]
    if unknown:
        return [f"no output is called {unknown[0]!r}: {suggest(unknown[0], error.outputs)}"]
    others = [found for name, found in error.outputs.items() if name not in gate.outputs]
    broken = excess(worst(others), tolerance_of(gate)) if others else []
    for name, bounds in gate.outputs.items():
        broken += [f"{name}: {sentence}" for sentence in excess(error.outputs[name], tolerance_of(bounds))]
    return broken


def tolerance_of(bounds: ParityBounds) -> Tolerance:
    """Bounds of the YAML as they are held against an error."""
    return Tolerance.model_validate(bounds.model_dump(exclude={"outputs"}))


def parity_bound(target: Target, gates: GatesConfig) -> Tolerance:
    """The bound that a result's outputs must keep: the YAML's, else the default of its kind."""
    declared = _declared(target, gates)
    return PARITY[target.precision.kind] if declared is None else tolerance_of(declared)


def source_problem(metric: MetricConfig, source: float) -> str:
    """Say why no engine can pass: the source itself is beyond the metric's floor or ceiling. Empty where it is not."""
    if metric.min is not None and source < metric.min:
        return f"the source model itself scores {source + 0.0:.6g}, below min {metric.min:g}: no engine can pass"
    if metric.max is not None and source > metric.max:
        return f"the source model itself scores {source + 0.0:.6g}, above max {metric.max:g}: no engine can pass"
    return ""


def direction_problem(metric: MetricConfig, source: float, noised: Sequence[float]) -> str:
    """Say that a metric seems to be read the wrong way round: ruined outputs win by it, each time and clearly."""
    ahead = [value - source if metric.higher_is_better else source - value for value in noised]
    if not ahead or min(ahead) <= _CLEAR_LEAD * max(abs(source), *map(abs, noised)):
        return ""
    other = "false" if metric.higher_is_better else "true"
    return (
        f"{metric.function} prefers noise: {noised[0]:.6g} for outputs ruined by noise, {source:.6g} for the source's; "
        f"if it is meant the other way round, write `higher_is_better: {other}`"
    )


def judge_metric(gates: GatesConfig, metric: MetricConfig, score: Score) -> Verdict:
    """Judge the user's metric: its floor or ceiling, and what it lost against the source framework."""
    if metric.min is not None and score.engine < metric.min:
        return _failed(
            "metric", [f"{score.engine:.6g} is below its minimum {metric.min:g} (the source has {score.source:.6g})"]
        )
    if metric.max is not None and score.engine > metric.max:
        return _failed(
            "metric", [f"{score.engine:.6g} is above its maximum {metric.max:g} (the source has {score.source:.6g})"]
        )
    lost = score.source - score.engine if metric.higher_is_better else score.engine - score.source
    allowed = DEFAULT_METRIC_DROP if gates.metric_drop is None else gates.metric_drop
    if lost > allowed:
        return _failed(
            "metric",
            [f"{score.engine:.6g} against the source's {score.source:.6g}: it lost {lost:.4g}, {allowed:g} is allowed"],
        )
    return Verdict(status="passed", reason=f"metric {score.engine:.6g} (source {score.source:.6g})")


def regressions(gates: GatesConfig, metric: MetricConfig | None, rivalry: Rivalry) -> list[str]:
    """List what a result is worse in than the engine that is promoted; what cannot be told counts as worse."""
    found: list[str] = []
    if gates.latency_regression is not None:
        found += _latency_regression(gates.latency_regression, rivalry)
    if gates.metric_regression is not None and metric is not None:
        found += _metric_regression(gates.metric_regression, metric, rivalry)
    return found


def _latency_regression(allowed: float, rivalry: Rivalry) -> list[str]:
    """Broken only if the whole interval of the ratio is beyond what is allowed: noise is no regression."""
    speedup = rivalry.speedup
    if speedup is None:
        return [_undecided("latency_regression", rivalry, rivalry.missing or "it was not timed")]
    if speedup.ci95 is None:
        cure = "the benchmark took too few turns for an interval: raise benchmark.seconds"
        return [_undecided("latency_regression", rivalry, cure)]
    low, high = 1 / speedup.ci95[1], 1 / speedup.ci95[0]
    if low <= 1 + allowed:
        return []
    took = f"the median latency is {1 / speedup.ratio:.3g} times ({low:.3g} to {high:.3g})"
    return [f"latency_regression: {took} that of the promoted {rivalry.promoted}, {1 + allowed:g} is allowed"]


def _metric_regression(allowed: float, metric: MetricConfig, rivalry: Rivalry) -> list[str]:
    if rivalry.metrics is None:
        return [_undecided("metric_regression", rivalry, rivalry.missing or "it was not scored")]
    own, promoted = rivalry.metrics
    lost = promoted - own if metric.higher_is_better else own - promoted
    if lost <= allowed:
        return []
    against = f"{own:.6g} against {promoted:.6g} of the promoted {rivalry.promoted}"
    return [f"metric_regression: {against}: it lost {lost:.4g}, {allowed:g} is allowed"]


def _undecided(gate: str, rivalry: Rivalry, reason: str) -> str:
    return (
        f"{gate} cannot be decided against the promoted {rivalry.promoted}: {reason} "
        "(to promote all the same: run once without this gate, or roll the promoted engine back)"
    )


def _failed(gate: str, broken: list[str]) -> Verdict:
    return Verdict(status="failed", reason=f"{gate}: {'; '.join(broken)}")


def _declared(target: Target, gates: GatesConfig) -> ParityGate | None:
    """The YAML's bounds for a result: by its id first, then by the precision's name, then by its kind."""
    for name in (target.id, target.precision.name, target.precision.kind):
        if name in gates.parity:
            return gates.parity[name]
    return None
