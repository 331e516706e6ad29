"""What a reader of a run must know beside its figures."""

from flows.convert import Findings
from tasks.benchmark import BenchmarkMetrics
from tasks.context import Context
from tasks.sources.collect import DataMetrics


def notes_of(context: Context, findings: Findings) -> list[str]:
    """One sentence each: what is synthetic, and which measurements were noisy."""
    notes = _synthetic(context.metrics(findings.data, DataMetrics)) if findings.data else []
    return [*notes, *(_noisy(findings.benchmark) if findings.benchmark else [])]


def _synthetic(data: DataMetrics) -> list[str]:
    if data.synthetic_evaluation:
        return ["parity and metric were measured on synthetic data: they say nothing about accuracy"]
    if "synthetic" in data.golden_origin:
        return ["parity was measured on synthetic inputs: give evaluation or calibration data for real ones"]
    return []


def _noisy(measured: BenchmarkMetrics) -> list[str]:
    noisy = [point for point in measured.points if point.noisy]
    if not noisy:
        return []
    worst = max(noisy, key=lambda point: point.round_variation)
    at = ", ".join(f"{dim} {size}" for dim, size in worst.at.items()) or "its fixed shape"
    return [
        f"{len(noisy)} of {len(measured.points)} measurements were noisy ({worst.name} at {at} varied by "
        f"{worst.round_variation:.0%} between turns): measure again on a quiet host with --rebenchmark"
    ]
