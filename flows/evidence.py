"""A run's record with the reports of the artifacts that it made or used, as far as the store still holds them."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from tasks.benchmark import EAGER, BenchmarkMetrics
from tasks.core.errors import StoreError
from tasks.core.frozen import Frozen
from tasks.core.outcome import EngineOutcome, RunRecord
from tasks.core.report import Report
from tasks.core.store import read_report
from tasks.parity import HopName, ParityMetrics

M = TypeVar("M", bound=Frozen)
# What stands between the source model and an engine, in this order; the whole way is `vs_source`.
HOPS: tuple[HopName, ...] = ("export", "fold", "prune", "precision_cost", "runtime_cost")
HOP_NAMES: dict[str, str] = {"precision_cost": "precision", "runtime_cost": "runtime", "vs_source": "whole way"}


@dataclass(frozen=True)
class Evidence:
    """What is known of one run; a report is asked for by its step and subject in this run."""

    root: Path
    record: RunRecord
    reports: dict[tuple[str, str], Report] = field(default_factory=dict)

    def metrics(self, step: str, subject: str, model: type[M]) -> M | None:
        """The metrics of one step; None where it made nothing, or nothing that this version can read."""
        report = self.reports.get((step, subject))
        try:
            return model.model_validate(report.metrics) if report else None
        except ValidationError:
            return None

    def hops(self, engine: EngineOutcome) -> dict[str, float]:
        """Relative L2 error by hop, the whole way included; of an old record, the hops that it holds itself."""
        found = self.metrics("parity", engine.id, ParityMetrics)
        if found is not None:
            return {name: hop.worst.rel_l2 for name, hop in found.hops.items()}
        return {} if engine.parity is None else {name: hop.rel_l2 for name, hop in engine.parity}

    @property
    def measured(self) -> BenchmarkMetrics | None:
        """The figures of the benchmark."""
        return self.metrics("benchmark", "", BenchmarkMetrics)

    @property
    def results(self) -> tuple[EngineOutcome, ...]:
        """All results, in the order of the YAML."""
        return self.record.outcome.engines

    def baselines(self) -> tuple[str, ...]:
        """What was timed and is no result of the run: the source framework, the engine in force before."""
        ids = {engine.id for engine in self.results}
        timed = self.measured.points if self.measured else ()
        return tuple(dict.fromkeys(point.name for point in timed if point.name not in ids))


def evidence(root: Path, record: RunRecord) -> Evidence:
    """Read the reports; what was removed since, or damaged, is left out."""
    found: dict[tuple[str, str], Report] = {}
    folders: dict[str, Report | None] = {}
    places = [(entry.step, entry.subject, entry.artifact) for entry in record.timeline if entry.artifact]
    for step, subject, folder in places or [("", "", folder) for folder in record.artifacts]:
        if folder not in folders:
            folders[folder] = _read(root / folder)
        report = folders[folder]
        if report is not None:
            found[(step, subject) if step else (report.step, report.subject)] = report
    return Evidence(root, record, found)


def _read(folder: Path) -> Report | None:
    try:
        return read_report(folder)
    except StoreError:
        return None


def source_framework(found: Evidence) -> str | None:
    """Name of the source framework where it was timed."""
    return EAGER if EAGER in found.baselines() else None
