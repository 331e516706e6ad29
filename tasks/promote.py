"""Step `promote`: put the best engine that passed its gates in force. Never cached."""

from collections.abc import Sequence
from typing import Literal, TypeAlias, assert_never

from tasks.context import Context
from tasks.core.config import Objective, PipelineConfig, PromoteConfig, complete
from tasks.core.errors import PromotionError
from tasks.core.frozen import Frozen
from tasks.core.outcome import EngineOutcome, LatencyOutcome, Promoted
from tasks.core.promotions import Choice, promotions_in
from tasks.core.report import Artifact
from tasks.step import StepOptions, step

OPTIONS = StepOptions("promote", version=1)
TimedObjective: TypeAlias = Literal["latency_p50_ms", "latency_p90_ms", "latency_p99_ms", "throughput_per_s"]


class Candidate(Frozen):
    """An engine that passed, and its artifact."""

    outcome: EngineOutcome
    built: Artifact


@step(OPTIONS)
def promote(context: Context, candidates: Sequence[Candidate]) -> Promoted | None:
    """Promote the best candidate that was not rolled back; None where there is none."""
    promotions = promotions_in(context.store, context.pipeline)
    barred = promotions.state().barred
    free = [candidate for candidate in candidates if candidate.built.key not in barred]
    if not free:
        return None
    best, reason = choose(free, _objective(context.config), rises=_metric_rises(context))
    for name in best.built.files:
        context.file(best.built, name)  # what goes into force is verified byte by byte
    files = {record.name: record.sha256 for record in context.store.report(best.built).files}
    choice = Choice(id=best.outcome.id, key=best.built.key, artifact=best.built.folder, reason=reason, files=files)
    record = promotions.promote(choice)
    return Promoted(id=record.id, key=record.key, reason=reason)


def _objective(config: PipelineConfig) -> PromoteConfig:
    """The YAML's objective with its point complete: a dim that it leaves out is at its opt."""
    at = config.promote.at
    return config.promote if at is None else config.promote.model_copy(update={"at": complete(at, config.dims)})


def _metric_rises(context: Context) -> bool:
    evaluation = context.config.data.evaluation
    return evaluation is None or evaluation.metric is None or evaluation.metric.higher_is_better


def choose(candidates: Sequence[Candidate], config: PromoteConfig, *, rises: bool) -> tuple[Candidate, str]:
    """Pick the best by the objective; a tie goes to the first in the order of the YAML."""
    sign = -1.0 if _more_is_better(config.by, rises=rises) else 1.0
    values = [_value(candidate.outcome, config) for candidate in candidates]
    known = [(sign * value, index) for index, value in enumerate(values) if value is not None]
    if not known:
        raise PromotionError(
            f"no engine has a value of {config.by}",
            "measure longer (`benchmark.seconds`), or promote by something else (`promote.by`)",
        )
    best = min(known)[1]
    others = ", ".join(
        f"{c.outcome.id} {_shown(v)}" for i, (c, v) in enumerate(zip(candidates, values, strict=True)) if i != best
    )
    where = f" at {_point(config, candidates[best].outcome)}" if config.by not in ("size_bytes", "metric") else ""
    return candidates[best], f"best {config.by}{where}: {_shown(values[best])}" + (f" ({others})" if others else "")


def _more_is_better(objective: Objective, *, rises: bool) -> bool:
    return objective == "throughput_per_s" or (objective == "metric" and rises)


def _value(outcome: EngineOutcome, config: PromoteConfig) -> float | None:
    match config.by:
        case "size_bytes":
            return outcome.size_bytes
        case "metric":
            return outcome.metric
        case by:
            point = _measured(outcome, config)
            return _timed(point, by) if point else None


def _timed(point: LatencyOutcome, objective: TimedObjective) -> float | None:
    match objective:
        case "latency_p50_ms":
            return point.p50_ms
        case "latency_p90_ms":
            return point.p90_ms
        case "latency_p99_ms":
            return point.p99_ms
        case "throughput_per_s":
            return point.throughput_per_s
        case other:
            assert_never(other)


def _measured(outcome: EngineOutcome, config: PromoteConfig) -> LatencyOutcome | None:
    """The point that the objective is read at: the one of the YAML, else the first that was measured."""
    return next((point for point in outcome.latency if config.at in (None, point.at)), None)


def _point(config: PromoteConfig, outcome: EngineOutcome) -> str:
    measured = _measured(outcome, config)
    sizes = measured.at if measured else config.at or {}
    return ", ".join(f"{dim} {size}" for dim, size in sizes.items()) or "its fixed shape"


def _shown(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.4g}"
