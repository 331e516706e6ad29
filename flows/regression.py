"""The regression gates: what passed, against the engine that is promoted, timed again and scored again beside it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from flows.findings import Finding
from flows.submit import Result, Submit
from tasks.benchmark import BenchmarkMetrics, Contender
from tasks.context import Context
from tasks.core.config import complete
from tasks.core.errors import ArtifactDamaged, ConfigError, StoreError, TrtflowError
from tasks.core.promotions import Promotion, promotions_in
from tasks.core.report import Artifact
from tasks.core.store import read_report
from tasks.core.trust import trusted
from tasks.evaluate import EvaluateMetrics, evaluate, metric_of
from tasks.gates import Rivalry, Verdict, regressions
from tasks.runtimes.timing import PointFigures, Speedup

PROMOTED = "promoted before: "


@dataclass(frozen=True)
class Baseline:
    """The engine in force.

    `contender` is the newest engine that was in force and is no result of this run: the one in force after a
    retraining, and the same again when nothing changed since, so that its benchmark is found in the store.
    `result` is the id of the result that is in force itself. `missing` is why the engine in force cannot be compared.
    """

    promotion: Promotion
    contender: Contender | None
    result: str = ""
    missing: str = ""

    @property
    def timed_as(self) -> str:
        """What the benchmark calls it."""
        return self.result or (self.contender.name if self.contender else "")


def baseline_of(context: Context, results: Sequence[Finding]) -> Baseline | None:
    """Find what the results have to hold their own against; None where no gate asks, or nothing is promoted."""
    gates = context.config.gates
    if gates.latency_regression is None and gates.metric_regression is None:
        return None
    line = promotions_in(context.store, context.pipeline).in_force()
    if not line:
        return None
    passed = [found for found in results if found.verdict.status == "passed"]
    own = {found.built.key: found.target.id for found in reversed(passed) if found.built and not found.target.run_on}
    trusted(context.store.root, line[0], context.store.authority)
    current, result = line[0], own.get(line[0].key, "")
    before = next((promotion for promotion in line if promotion.key not in own), None)
    if before is None:
        return Baseline(current, None, result)
    try:
        context.store.bring(before.artifact)
        built = read_report(context.store.root / before.artifact).artifact
    except StoreError as error:
        return Baseline(current, None, result, "" if result else error.message)
    contender = Contender(name=f"{PROMOTED}{before.id}", built=built, promoted=True)
    return Baseline(current, contender, result)


def scored(
    context: Context, submit: Submit, baseline: Baseline | None, data: Result[Artifact], exported: Result[Artifact]
) -> Result[Artifact] | None:
    """Score the engine in force on the same data, unless it is a result of this run."""
    if baseline is None or baseline.result or baseline.contender is None or metric_of(context) is None:
        return None
    if context.config.gates.metric_regression is None:
        return None
    name = baseline.contender.name
    return submit(evaluate, name, context, name, data, exported, baseline.contender.built)


def judged(
    context: Context,
    results: tuple[Finding, ...],
    measured: BenchmarkMetrics | None,
    baseline: Baseline | None,
    score: Result[Artifact] | None,
) -> tuple[Finding, ...]:
    """Judge every result that passed; one that regresses is not promoted, and has failed if it is in force so far."""
    if baseline is None or measured is None:
        return results
    metric, problem = _metric(context, results, baseline, score)
    missing = baseline.missing or measured.promoted_missing or problem

    def judge(found: Finding) -> Finding:
        if found.verdict.status != "passed" or found.target.id == baseline.result:
            return found
        rivalry = Rivalry(
            promoted=baseline.promotion.id,
            speedup=_speedup(context, measured.points, found.target.id, baseline.timed_as),
            metrics=None if found.metric is None or metric is None else (found.metric, metric),
            missing=missing,
        )
        broken = regressions(context.config.gates, metric_of(context), rivalry)
        return _worse(found, broken, baseline) if broken else _no_worse(found, rivalry.speedup)

    return tuple(map(judge, results))


def _no_worse(found: Finding, speedup: Speedup | None) -> Finding:
    if speedup is None or speedup.ci95 is None:
        return found
    low, high = 1 / speedup.ci95[1], 1 / speedup.ci95[0]
    took = f"median latency {1 / speedup.ratio:.3g} times ({low:.3g} to {high:.3g}) that of the promoted engine"
    return replace(found, verdict=Verdict(status="passed", reason=f"{found.verdict.reason}; {took}"))


def _worse(found: Finding, broken: list[str], baseline: Baseline) -> Finding:
    text = "; ".join(broken)
    if found.target.id == baseline.promotion.id:
        return replace(found, verdict=Verdict(status="failed", reason=text), regression=text)
    reason = f"{found.verdict.reason}; not to be promoted: {text}"
    return replace(found, verdict=Verdict(status="passed", reason=reason), regression=text)


def _metric(
    context: Context, results: Sequence[Finding], baseline: Baseline, score: Result[Artifact] | None
) -> tuple[float | None, str]:
    """The metric of the engine in force, or why there is none."""
    if baseline.result:
        return next(found.metric for found in results if found.target.id == baseline.result), ""
    if score is None:
        return None, ""
    try:
        return context.metrics(score.result(), EvaluateMetrics).value, ""
    except (ArtifactDamaged, ConfigError):
        raise
    except TrtflowError as error:
        return None, error.message


def _speedup(context: Context, points: Sequence[PointFigures], result: str, rival: str) -> Speedup | None:
    """How a result compares with its rival at the point by which the pipeline promotes, else at the first."""
    at = context.config.promote.at
    wanted = None if at is None else complete(at, context.config.dims)
    own = (point for point in points if point.name == result and wanted in (None, point.at))
    figures = next(own, None)
    return next((speedup for speedup in figures.rivals if speedup.against == rival), None) if figures else None
