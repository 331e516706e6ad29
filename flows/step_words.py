"""What is told of a step in one line: on the terminal as it ends, and in the log of its task run."""

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from flows.blame import figure
from flows.journal import StepEntry
from flows.story import point_text
from flows.table import metric_text, size_text
from tasks.benchmark import BenchmarkMetrics
from tasks.core.errors import StoreError
from tasks.core.outcome import Promoted
from tasks.core.report import Artifact, Report
from tasks.core.store import read_report
from tasks.evaluate import EvaluateMetrics
from tasks.parity import ParityMetrics
from tasks.runtimes.base import BuildMetrics
from tasks.verify_range import RangeMetrics

if TYPE_CHECKING:
    from collections.abc import Iterator

_WIDTH = 8
# More than these are told by the table.
_MOST_FIGURES = 6


def ended(pipeline: str, entry: StepEntry) -> str:
    """How long it took or what else became of it, what it is, and what went wrong."""
    return f"{_how(entry):>{_WIDTH}} {label(pipeline, entry)}{f': {entry.error}' if entry.error else ''}"


def label(pipeline: str, entry: StepEntry) -> str:
    """Which step it is."""
    return f"{pipeline} {entry.step} {entry.subject}".rstrip()


def _how(entry: StepEntry) -> str:
    match entry.state:
        case "made":
            return f"{entry.seconds:.1f} s"
        case "cached" | "failed":
            return entry.state
        case _:
            return "not run"


def result(root: Path, returned: object) -> str:
    """The figures of what a step returned, as far as a line has room for them, and the folder that it left."""
    if isinstance(returned, Promoted):
        return f"{returned.id}: {returned.reason}"
    if not isinstance(returned, Artifact):
        return ""
    try:
        figures = list(_figures(read_report(root / returned.folder)))
    except (StoreError, ValidationError):
        figures = []
    left_out = len(figures) - _MOST_FIGURES
    told = figures[:_MOST_FIGURES] + ([f"and {left_out} more"] if left_out > 0 else [])
    return " · ".join(filter(None, (", ".join(told), returned.folder)))


def _figures(report: Report) -> "Iterator[str]":
    """What the step is asked for."""
    match report.step:
        case "build":
            built = BuildMetrics.model_validate(report.metrics)
            yield built.not_run or size_text(built.size_bytes)
        case "parity":
            hops = ParityMetrics.model_validate(report.metrics).hops
            yield from (f"error {figure(hop.worst.rel_l2)}" for name, hop in hops.items() if name == "vs_source")
        case "range":
            sizes = RangeMetrics.model_validate(report.metrics).verified
            yield from (f"{dim} {low} to {high}" for dim, (low, high) in sizes.items())
        case "evaluate":
            yield f"metric {metric_text(EvaluateMetrics.model_validate(report.metrics).value)}"
        case "benchmark":
            for point in BenchmarkMetrics.model_validate(report.metrics).points:
                yield f"{point.name} {point.latency_p50_ms:.3g} ms at {point_text(point.at)}"
        case _:
            return
