"""Run one pipeline from its YAML to a promotion, and keep a record of the run."""

import threading
import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from flows.convert import Findings, convert
from flows.journal import Journal
from flows.outcomes import candidates, engine_outcomes, passes
from flows.submit import Submit, ThreadSubmit
from tasks.context import Context
from tasks.core.config import PipelineConfig
from tasks.core.environment import environment
from tasks.core.errors import ArtifactDamaged, Interrupted, TrtflowError
from tasks.core.files import store_errors, write_atomically
from tasks.core.outcome import Promoted, RunOutcome, RunRecord, RunStatus
from tasks.core.store import Store
from tasks.data import DataMetrics
from tasks.promote import promote
from tasks.runtimes.isolate import Workers

# A damaged artifact is found at most once a step; more often, something keeps damaging the store.
_REPAIRS = 20


@dataclass(frozen=True)
class RunOptions:
    """How to run, beside what the YAML says."""

    root: Path
    project: Path
    timeout_seconds: float = 3600.0
    verify_all: bool = False


@dataclass
class Run:
    """One run of one pipeline: an id, a journal, and what is to be told at its end."""

    pipeline: str
    config: PipelineConfig
    options: RunOptions
    journal: Journal
    stop: threading.Event = field(default_factory=threading.Event)
    notes: list[str] = field(default_factory=list)
    id: str = field(default_factory=lambda: f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}")
    started: float = field(default_factory=time.monotonic)
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    @property
    def store(self) -> Store:
        """The store that the run works on."""
        return Store(self.options.root, self.options.project, self.stop, self.options.verify_all)

    @property
    def folder(self) -> Path:
        """Folder of the run's record."""
        return self.options.root / self.pipeline / "runs" / self.id


class RunInterrupted(KeyboardInterrupt):
    """A run that was asked to stop, with what it had found by then."""

    def __init__(self, outcome: RunOutcome, cause: KeyboardInterrupt) -> None:
        super().__init__(str(cause))
        self.outcome = outcome
        self.exit_code = cause.exit_code if isinstance(cause, Interrupted) else 130


@dataclass(frozen=True)
class _Ending:
    """How a run ended."""

    status: RunStatus
    findings: Findings | None = None
    promoted: Promoted | None = None
    failure: str | None = None


def run_pipeline(run: Run) -> RunOutcome:
    """Run in this process, without a server."""
    with ThreadSubmit(run.journal) as submit:
        return drive(run, submit)


def drive(run: Run, submit: Submit) -> RunOutcome:
    """Run the DAG with workers of its own; an interruption is recorded and raised as RunInterrupted."""
    with Workers(run.options.timeout_seconds) as workers:
        context = Context(run.pipeline, run.config, run.store, workers, run.journal)
        try:
            return go(run, context, submit)
        except KeyboardInterrupt as error:
            run.stop.set()
            workers.close()  # steps that wait for a worker or a lock end now, and leave nothing behind
            outcome = _record(run, context, _Ending("interrupted", failure=str(error)))
            raise RunInterrupted(outcome, error) from error


def go(run: Run, context: Context, submit: Submit) -> RunOutcome:
    """Run the DAG and promote; an artifact that is found damaged is discarded and made again."""
    with store_errors(run.options.root):
        context.store.sweep(run.pipeline)
    for _ in range(_REPAIRS):
        try:
            return _record(run, context, _convert_and_promote(run, context, submit))
        except ArtifactDamaged as damage:
            run.notes.append(f"rebuilt: {damage.message}")
            context.store.discard(damage.folder)
    raise TrtflowError(f"the store at {run.options.root} keeps being damaged", "check its disk, and who writes to it")


def _convert_and_promote(run: Run, context: Context, submit: Submit) -> _Ending:
    run.journal.planned("data", "")
    findings = convert(context, submit)
    if not passes(findings):
        return _Ending("failed", findings, failure=str(findings.failure) if findings.failure else None)
    best = submit(promote, "", context, candidates(context, findings))
    try:
        return _Ending("passed", findings, promoted=best.result())
    except ArtifactDamaged:
        raise
    except TrtflowError as error:
        return _Ending("failed", findings, failure=str(error))


def _record(run: Run, context: Context, ending: _Ending) -> RunOutcome:
    for step in ("benchmark", "promote"):  # planned in every run, submitted only once their inputs are known
        if not any(name == step for name, _ in run.journal.entries):
            run.journal.planned(step, "")
    findings = ending.findings
    outcome = RunOutcome(
        pipeline=run.pipeline,
        status=ending.status,
        run=run.id,
        seconds=round(time.monotonic() - run.started, 3),
        steps=run.journal.outcomes(),
        engines=engine_outcomes(context, findings) if findings else (),
        promoted=ending.promoted,
    )
    record = RunRecord(
        outcome=outcome,
        started=run.started_at,
        failure=ending.failure,
        notes=tuple(run.notes),
        source_metric=findings.source_metric if findings else None,
        golden_origin=_golden_origin(context, findings),
        artifacts=tuple(dict.fromkeys(artifact.folder for artifact in run.journal.artifacts())),
        environment=environment(),
    )
    with store_errors(run.options.root):
        write_atomically(run.folder / "run.json", record.model_dump_json(indent=1) + "\n")
    return outcome


def _golden_origin(context: Context, findings: Findings | None) -> tuple[str, ...]:
    if findings is None or findings.data is None:
        return ()
    return context.metrics(findings.data, DataMetrics).golden_origin
