"""What a pipeline's runs measured over time, and what was promoted when."""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from flows.records import run_folders
from tasks.core.errors import StoreError
from tasks.core.outcome import RunRecord, RunStatus
from tasks.core.promotions import Promotion, promotions_in
from tasks.core.report import KEY_IN_FOLDER_NAME
from tasks.core.store import Store, read_report
from tasks.drawings.figures import Decision, History, Measured

# Runs that the page of a pipeline lists and draws.
NEWEST = 200


class _Part(BaseModel):
    """A part of a record: what is not asked for is not even looked at, so that hundreds are read quickly."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class _Step(_Part):
    step: str
    key: str | None
    cached: bool


class _Point(_Part):
    at: dict[str, int]
    p50_ms: float


class _Engine(_Part):
    id: str
    metric: float | None
    latency: tuple[_Point, ...]


class _Promoted(_Part):
    id: str


class _Outcome(_Part):
    run: str
    status: RunStatus
    seconds: float
    steps: tuple[_Step, ...]
    engines: tuple[_Engine, ...]
    promoted: _Promoted | None


class RunLine(_Part):
    """One run as the page of its pipeline lists it."""

    outcome: _Outcome
    started: str
    failure: str | None

    @property
    def benchmark(self) -> _Step | None:
        """The step by which the run measured, or found measured; None where nothing was."""
        return next((step for step in self.outcome.steps if step.step == "benchmark" and step.key), None)


@dataclass(frozen=True)
class Past:
    """The newest runs of a pipeline, newest first, and all its promotions, oldest first."""

    root: Path
    pipeline: str
    runs: tuple[RunLine, ...]
    promotions: tuple[Promotion, ...]


def past_of(store: Store, pipeline: str) -> Past:
    """Read what is there; records that this version cannot read are left out."""
    root = store.root
    folders = run_folders(root, pipeline)[:NEWEST]
    runs = tuple(line for folder in folders if (line := _line(folder)))
    return Past(root, pipeline, runs, tuple(promotions_in(store, pipeline).records()))


def with_run(past: Past, record: RunRecord) -> Past:
    """The same with a run that is not written yet, or was read already."""
    others = tuple(run for run in past.runs if run.outcome.run != record.outcome.run)
    line = RunLine.model_validate_json(record.model_dump_json())
    runs = sorted((line, *others), key=lambda run: run.outcome.run, reverse=True)
    return replace(past, runs=tuple(runs[:NEWEST]))


@functools.lru_cache(maxsize=2 * NEWEST)
def _line(folder: Path) -> RunLine | None:
    """A record never changes once it is written, and a run asks twice: for the charts, and for the page."""
    try:
        return RunLine.model_validate_json((folder / "run.json").read_bytes())
    except (OSError, ValidationError):
        return None


def history_of(past: Past, at: dict[str, int] | None) -> History | None:
    """What there is to draw: measurements that differ, each once; None while there are fewer than two of them."""
    runs = _distinct(past.runs)
    measured = tuple(each for run in runs for each in _measured(past, run, at))
    if len({each.at for each in measured}) <= 1:
        return None
    first = measured[0].at
    common = _common({each.name for each in measured})
    measured = tuple(each.model_copy(update={"name": each.name.removeprefix(common)}) for each in measured)
    decisions = tuple(
        Decision(at=when, kind=record.kind, name=record.id.removeprefix(common))
        for record in past.promotions
        if (when := _seconds(record.at)) >= first
    )
    point = next((engine.latency for run in runs for engine in run.outcome.engines if engine.latency), ())
    text = ", ".join(f"{dim} {size}" for dim, size in (at or (point[0].at if point else {})).items())
    return History(measured=measured, decisions=decisions, point=text or "its fixed shape")


def _common(ids: set[str]) -> str:
    """What charts leave out: the name of the engine, where there is one only."""
    engines = {name.partition("/")[0] for name in ids}
    return f"{engines.pop()}/" if len(engines) == 1 else ""


def _distinct(runs: Sequence[RunLine]) -> list[RunLine]:
    """For each measurement the first of the runs that tell of it, oldest first.

    The key of a benchmark is made of what it is done with: measured again, it is the figures that differ.
    """
    found: dict[tuple[str, str], RunLine] = {}
    for run in reversed(runs):
        if run.benchmark:
            figures = "".join(engine.model_dump_json() for engine in run.outcome.engines)
            found.setdefault((run.benchmark.key or "", figures), run)
    return list(found.values())


def _measured(past: Past, run: RunLine, at: dict[str, int] | None) -> Iterator[Measured]:
    when = _when(past, run)
    for engine in run.outcome.engines:
        point = next((point for point in engine.latency if at in (None, point.at)), None)
        if point or engine.metric is not None:
            yield Measured(at=when, name=engine.id, p50_ms=point.p50_ms if point else None, metric=engine.metric)


def _when(past: Past, run: RunLine) -> float:
    """When it was measured: by this run, or before it by one that is not among the newest any more."""
    began = _seconds(run.started)
    if run.benchmark is None or not run.benchmark.cached:
        return began
    folder = past.root / past.pipeline / "benchmark" / (run.benchmark.key or "")[:KEY_IN_FOLDER_NAME]
    try:
        return min(began, _seconds(read_report(folder).started))
    except StoreError:  # removed since
        return began


def _seconds(text: str) -> float:
    moment = datetime.fromisoformat(text)
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp(), 3)
