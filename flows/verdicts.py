"""Verdicts of one pipeline: from what was compared and scored, and what the YAML asks, to passed or failed."""

from tasks.context import Context
from tasks.core.errors import StepError
from tasks.evaluate import EvaluateMetrics, metric_of
from tasks.gates import (
    Score,
    Verdict,
    direction_problem,
    judge_metric,
    judge_parity,
    parity_bound,
    source_problem,
)
from tasks.parity import ParityMetrics
from tasks.target import Target
from tasks.verify_range import RangeMetrics, range_problem


def verdict_of(
    context: Context,
    target: Target,
    found: tuple[ParityMetrics, RangeMetrics | None],
    scores: tuple[float | None, float | None],
) -> Verdict:
    """Judge one result by parity, by the metric (the engine's and the source's) and over the declared range."""
    compared, over_range = found
    verdict = _verdict(context, target, compared, scores)
    if over_range is None or verdict.status != "passed":
        return verdict
    bound = parity_bound(target, context.config.gates)
    problem = range_problem(over_range, bound, compared.hops["vs_source"].worst)
    return Verdict(status="failed", reason=f"range: {problem}") if problem else verdict


def hopeless(context: Context, source: float | None) -> StepError | None:
    """Why no engine can pass: the source's own metric misses the bounds that every engine must keep."""
    metric = metric_of(context)
    problem = "" if metric is None or source is None else source_problem(metric, source)
    return StepError(problem, "correct the metric, its bounds or the model") if problem else None


def suspected(context: Context, scored: EvaluateMetrics | None) -> str:
    """Why the metric seems to be read the wrong way round; empty where it does not."""
    metric = metric_of(context)
    return "" if metric is None or scored is None else direction_problem(metric, scored.value, scored.noised)


def _verdict(
    context: Context, target: Target, compared: ParityMetrics, scores: tuple[float | None, float | None]
) -> Verdict:
    gates, metric = context.config.gates, metric_of(context)
    verdict = judge_parity(target, gates, compared.hops["vs_source"], metric=metric is not None)
    engine, source = scores
    if verdict.status != "passed" or metric is None or engine is None or source is None:
        return verdict
    scored = judge_metric(gates, metric, Score(engine=engine, source=source))
    if scored.status != "passed":
        return scored
    synthetic = " on synthetic data" if _synthetic(context) else ""
    return Verdict(status="passed", reason=f"{verdict.reason}; {scored.reason}{synthetic}")


def _synthetic(context: Context) -> bool:
    evaluation = context.config.data.evaluation
    return evaluation is not None and evaluation.synthetic
