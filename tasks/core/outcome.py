"""What a run found: the object that `run --json` prints and run.json keeps."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from tasks.core.environment import Environment
from tasks.core.frozen import Frozen

EngineStatus = Literal["passed", "failed", "built", "skipped", "error"]
RunStatus = Literal["passed", "failed", "interrupted"]


class StepOutcome(Frozen):
    """One step of a run; `key` is None where the step was not reached or failed before its key was known."""

    step: str
    key: str | None
    cached: bool
    status: Literal["done", "failed", "not_reached"]
    seconds: float


class HopOutcome(Frozen):
    """The worst error over the outputs."""

    rel_l2: float
    cosine: float
    max_abs_error: float


class ParityOutcome(Frozen):
    """End to end, and what the precision and the runtime contributed."""

    vs_source: HopOutcome
    precision_cost: HopOutcome
    runtime_cost: HopOutcome


class LatencyOutcome(Frozen):
    """Latency at one point; a percentile that the samples do not support is None."""

    at: dict[str, int]
    p50_ms: float
    p90_ms: float | None
    p99_ms: float | None
    throughput_per_s: float
    speedup: float | None
    speedup_ci95: tuple[float, float] | None
    speedup_against: str | None


class EngineOutcome(Frozen):
    """The verdict on one result, with its reason.

    `verified`: the smallest and the largest size of each dim at which the engine was compared with the source.
    """

    id: str
    engine: str
    runtime: str
    precision: str
    status: EngineStatus
    reason: str
    artifact: str | None
    size_bytes: int | None
    parity: ParityOutcome | None
    metric: float | None
    latency: tuple[LatencyOutcome, ...]
    verified: dict[str, tuple[int, int]] = Field(default_factory=dict)  # absent from records of before it was kept


class Promoted(Frozen):
    """What a run promoted, or found promoted already."""

    id: str
    key: str
    reason: str


class RunOutcome(Frozen):
    """One run of one pipeline."""

    pipeline: str
    status: RunStatus
    run: str
    seconds: float
    steps: tuple[StepOutcome, ...]
    engines: tuple[EngineOutcome, ...]
    promoted: Promoted | None


class RunsOutcome(Frozen):
    """What `run --json` prints."""

    runs: tuple[RunOutcome, ...]


class TimelineEntry(Frozen):
    """When one step ran: seconds after the run began, and how long it took; `artifact` is the folder that it gave."""

    step: str
    subject: str
    start: float
    seconds: float
    cached: bool
    status: Literal["done", "failed", "not_reached"]
    error: str = ""
    artifact: str | None = None


class CheckpointRecord(Frozen):
    """The checkpoint that a run was given: where it came from, what it was, and what was said of it."""

    given: str
    sha256: str
    metadata: dict[str, str] = Field(default_factory=dict)
    occurred: datetime | None = None


class RunRecord(Frozen):
    """The run.json of one run: its outcome, its surroundings and what was worth saying."""

    schema_version: Literal[1] = 1
    outcome: RunOutcome
    started: str
    failure: str | None
    notes: tuple[str, ...]
    source_metric: float | None
    golden_origin: tuple[str, ...]
    artifacts: tuple[str, ...]
    environment: Environment
    timeline: tuple[TimelineEntry, ...] = ()  # absent from records of before it was kept
    checkpoint: CheckpointRecord | None = None  # None where the YAML's own was used


def exit_code(runs: tuple[RunOutcome, ...]) -> int:
    """0 when every run passed, else 1; an interruption carries its own code."""
    return 0 if all(run.status == "passed" for run in runs) else 1
