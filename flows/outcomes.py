"""From what the DAG found to what a run tells."""

from flows.findings import Finding, Findings
from tasks.benchmark import EAGER, BenchmarkMetrics
from tasks.context import Context
from tasks.core.outcome import EngineOutcome, HopOutcome, LatencyOutcome, ParityOutcome
from tasks.parity import ParityMetrics
from tasks.promote import Candidate
from tasks.runtimes.base import BuildMetrics
from tasks.runtimes.judge import HopError
from tasks.runtimes.load import DEPLOYABLE
from tasks.runtimes.timing import PointFigures, Speedup


def engine_outcomes(context: Context, findings: Findings) -> tuple[EngineOutcome, ...]:
    """One line for each result, in the order of the YAML."""
    return tuple(_engine_outcome(context, found, findings.benchmark) for found in findings.results)


def _engine_outcome(context: Context, found: Finding, measured: BenchmarkMetrics | None) -> EngineOutcome:
    target = found.target
    return EngineOutcome(
        id=target.id,
        engine=target.label,
        runtime=target.engine.runtime,
        precision=target.precision.name,
        status=found.verdict.status,
        reason=found.verdict.reason,
        artifact=_artifact(context, found),
        size_bytes=_size(context, found),
        parity=_parity(found.parity) if found.parity else None,
        metric=found.metric,
        latency=tuple(_latency(point) for point in measured.points if point.name == target.id) if measured else (),
        verified=found.over_range.verified if found.over_range else {},
    )


def _size(context: Context, found: Finding) -> int | None:
    """Bytes of the engine, or of the typed graph where none was built, with the external data."""
    if found.verdict.status == "built" and found.typed and not _compiled(context, found):
        return sum(file.bytes for file in context.store.report(found.typed).files if file.name.startswith("model."))
    return context.metrics(found.built, BuildMetrics).size_bytes if found.built else None


def _artifact(context: Context, found: Finding) -> str | None:
    made = found.typed if found.verdict.status == "built" and not _compiled(context, found) else found.built
    return made.folder if made else None


def _compiled(context: Context, found: Finding) -> bool:
    """Whether there is an engine, be it one that does not run here."""
    return found.built is not None and context.metrics(found.built, BuildMetrics).size_bytes > 0


def _parity(metrics: ParityMetrics) -> ParityOutcome:
    hops = metrics.hops
    return ParityOutcome(
        vs_source=_hop(hops["vs_source"]),
        precision_cost=_hop(hops["precision_cost"]),
        runtime_cost=_hop(hops["runtime_cost"]),
    )


def _hop(hop: HopError) -> HopOutcome:
    return HopOutcome(rel_l2=hop.worst.rel_l2, cosine=hop.worst.cosine, max_abs_error=hop.worst.max_abs_error)


def _latency(point: PointFigures) -> LatencyOutcome:
    speedup = _headline(point.speedups)
    return LatencyOutcome(
        at=point.at,
        p50_ms=point.latency_p50_ms,
        p90_ms=point.latency_p90_ms,
        p99_ms=point.latency_p99_ms,
        throughput_per_s=point.throughput_per_s,
        speedup=speedup.ratio if speedup else None,
        speedup_ci95=speedup.ci95 if speedup else None,
        speedup_against=speedup.against if speedup else None,
    )


def _headline(speedups: tuple[Speedup, ...]) -> Speedup | None:
    """Against the source framework where it was timed, else against fp32."""
    return next((speedup for speedup in speedups if speedup.against == EAGER), next(iter(speedups), None))


def passes(findings: Findings) -> bool:
    """Whether the run passed: no required result failed, and at least one result passed."""
    required = [found for found in findings.results if not found.target.optional]
    bad = [found for found in required if found.verdict.status in ("failed", "error")]
    return findings.failure is None and not bad and any(found.verdict.status == "passed" for found in findings.results)


def candidates(context: Context, findings: Findings) -> list[Candidate]:
    """What may be promoted: what passed and does not regress, but for runtimes that are yardsticks.

    An engine that another interpreter opens too is the same engine, promoted as its builder's result or not at all.
    """
    outcomes = engine_outcomes(context, findings)
    return [
        Candidate(outcome=outcome, built=found.built)
        for outcome, found in zip(outcomes, findings.results, strict=True)
        if found.built is not None and _deployable(found) and not found.regression
    ]


def regressed(findings: Findings) -> list[Finding]:
    """What might have been promoted if it were no worse than what is in force."""
    return [found for found in findings.results if _deployable(found) and found.regression]


def _deployable(found: Finding) -> bool:
    deployable = found.target.engine.runtime in DEPLOYABLE and not found.target.run_on
    return found.verdict.status == "passed" and deployable
