"""Run one pipeline from its YAML to a promotion, and keep a record of the run."""

import contextlib
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from flows.convert import convert, convert_known
from flows.evidence import evidence
from flows.findings import Findings
from flows.journal import Journal
from flows.notes import notes_of
from flows.outcomes import candidates, engine_outcomes, passes, regressed
from flows.pages.publish import draw_charts, write_index_page, write_run_page
from flows.submit import Submit, ThreadSubmit, Unreached
from tasks.context import Context
from tasks.core.config import Config, InterpreterConfig, PipelineConfig
from tasks.core.environment import environment
from tasks.core.errors import ArtifactDamaged, ConfigError, StepError, StoreError, TrtflowError, TrustError
from tasks.core.files import store_errors, write_atomically
from tasks.core.outcome import CheckpointRecord, Promoted, RunOutcome, RunRecord, RunStatus
from tasks.core.promotions import promotions_in
from tasks.core.shared import Shared
from tasks.core.store import Store
from tasks.core.trust import Authority
from tasks.promote import promote
from tasks.runtimes.isolate import Workers
from tasks.sources.collect import DataMetrics

# A damaged artifact is found at most once a step; more often, something keeps damaging the store.
_REPAIRS = 20


@dataclass(frozen=True)
class RunOptions:
    """How to run, beside what the YAML says."""

    root: Path
    project: Path
    verify_all: bool = False
    again: frozenset[str] = frozenset()  # steps to do again although they are cached
    resume: bool = False
    shared: Shared | None = None  # the remote store that `root` is the cache of
    authority: Authority = field(default_factory=Authority)
    interpreters: Mapping[str, InterpreterConfig] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store, config: Config) -> "RunOptions":
        """Into that store, with the interpreters of the YAML; nothing twice."""
        return cls(
            store.root,
            store.project,
            shared=store.shared,
            authority=store.authority,
            interpreters=config.interpreters,
        )


def run_id(suffix: str = "") -> str:
    """Sorts by time: the newest run is the last. The suffix of six letters is random, if none is given."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%S}.{now.microsecond // 1000:03}Z-{suffix or uuid.uuid4().hex[:6]}"


@dataclass
class Run:
    """One run of one pipeline: an id, a journal, and what is to be told at its end."""

    pipeline: str
    config: PipelineConfig
    options: RunOptions
    journal: Journal
    stop: threading.Event = field(default_factory=threading.Event)
    outcome: RunOutcome | None = None
    failure: str | None = None
    report: Path | None = None  # the page, once it is written
    checkpoint: CheckpointRecord | None = None  # the one that `config` was given in place of the YAML's
    id: str = field(default_factory=run_id)
    started: float = field(default_factory=time.monotonic)
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="milliseconds"))

    @property
    def store(self) -> Store:
        """The store that the run works on."""
        shared = self.options.shared
        return Store(
            self.options.root,
            self.options.project,
            self.stop,
            self.options.verify_all,
            replace(shared, stop=self.stop) if shared else None,
            self.options.authority,
        )

    def context(self, workers: Workers) -> Context:
        """What its steps are handed."""
        return Context(
            self.pipeline,
            self.config,
            self.store,
            workers,
            self.journal,
            again=self.options.again,
            resume=self.options.resume,
            interpreters=self.options.interpreters,
        )

    @property
    def folder(self) -> Path:
        """Folder of the run's record."""
        return self.options.root / self.pipeline / "runs" / self.id

    @property
    def notes(self) -> tuple[str, ...]:
        """What is worth telling at the end, and is kept in the record."""
        return tuple(self.journal.notes)

    def note(self, text: str) -> None:
        """Add a note, once."""
        if text not in self.journal.notes:
            self.journal.notes.append(text)


@dataclass(frozen=True)
class _Ending:
    """How a run ended."""

    status: RunStatus
    findings: Findings | None = None
    promoted: Promoted | None = None
    failure: str | None = None


def run_pipeline(run: Run, workers: Workers) -> RunOutcome:
    """Run in this process, without a server."""
    with ThreadSubmit(run.journal) as submit:
        return drive(run, workers, submit)


def drive(run: Run, workers: Workers, submit: Submit) -> RunOutcome:
    """Run the DAG. What ends it early is recorded; an interruption and a wrong YAML are also raised again."""
    if run.checkpoint is not None:
        run.note(f"made from the checkpoint {run.checkpoint.given} (sha256 {run.checkpoint.sha256})")
    context = run.context(workers)
    with contextlib.ExitStack() as held:
        return _drive(run, context, submit, held)


def _drive(run: Run, context: Context, submit: Submit, held: contextlib.ExitStack) -> RunOutcome:
    try:
        held.enter_context(context.store.in_use(run.pipeline))
        return go(run, context, submit)
    except submit.interruptions as error:
        run.stop.set()
        context.workers.close()  # steps that wait for a worker or a lock end now
        submit.settle()
        with contextlib.suppress(OSError):
            context.store.sweep(run.pipeline)  # what a worker wrote in its last moment
        _record(run, context, _Ending("interrupted", failure=str(error)))
        raise
    except TrtflowError as error:
        failed = StepError(error.message, error.cure)
        findings = convert_known(context, Unreached(run.journal, failed), None)
        outcome = _record(run, context, _Ending("failed", findings, failure=str(error)))
        if isinstance(error, ConfigError):
            raise
        return outcome


def go(run: Run, context: Context, submit: Submit) -> RunOutcome:
    """Run the DAG and promote; an artifact that is found damaged is discarded and made again."""
    with store_errors(run.options.root):
        context.store.sweep(run.pipeline)
    if run.options.authority.trusted:  # asked before hours of work, not behind them
        promotions_in(run.store, run.pipeline).state()
    for _ in range(_REPAIRS):
        try:
            ending = _convert_and_promote(run, context, submit)
            for problem in draw_charts(context, submit, evidence(run.options.root, _made_record(run, context, ending))):
                run.note(problem)
            return _record(run, context, ending)
        except ArtifactDamaged as damage:
            submit.settle()  # what still runs may read the artifact
            run.note(f"rebuilt: {damage.message}")
            context.store.discard(damage.folder)
            run.journal.restarted()
    raise TrtflowError(f"the store at {run.options.root} keeps being damaged", "check its disk, and who writes to it")


def _convert_and_promote(run: Run, context: Context, submit: Submit) -> _Ending:
    run.journal.planned("data", "")
    findings = convert(context, submit)
    for note in notes_of(context, findings):
        run.note(note)
    if findings.uncounted:
        run.note(f"the report lacks what the model costs to run: {findings.uncounted}")
    if not passes(findings):
        return _Ending("failed", findings, failure=str(findings.failure) if findings.failure else None)
    return _promoted(run, context, submit, findings)


def _promoted(run: Run, context: Context, submit: Submit, findings: Findings) -> _Ending:
    """Promote the best of what passed, unless all of it regresses."""
    offered = candidates(context, findings)
    worse = [] if offered else regressed(findings)
    if worse:
        reasons = "; ".join(f"{found.target.id}: {found.regression}" for found in worse)
        return _Ending("failed", findings, failure=f"nothing may take the place of what is promoted: {reasons}")
    try:
        promoted = submit(promote, "", context, offered).result()
    except ArtifactDamaged:
        raise
    except TrtflowError as error:
        return _Ending("failed", findings, failure=str(error))
    if promoted is None and not offered:
        run.note("nothing was promoted: what passed is of a runtime that is a yardstick, not made to be deployed")
    elif promoted is None:
        run.note(
            "nothing was promoted: every engine that passed was rolled back before; "
            f"to promote one all the same: trtflow promote {run.pipeline} ID"
        )
    return _Ending("passed", findings, promoted=promoted)


def _made_record(run: Run, context: Context, ending: _Ending) -> RunRecord:
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
    return RunRecord(
        outcome=outcome,
        started=run.started_at,
        failure=ending.failure,
        notes=run.notes,
        source_metric=findings.source_metric if findings else None,
        golden_origin=_golden_origin(context, findings),
        artifacts=tuple(dict.fromkeys(artifact.folder for artifact in run.journal.artifacts())),
        environment=environment(),
        timeline=run.journal.timeline(run.started),
        checkpoint=run.checkpoint,
    )


def _record(run: Run, context: Context, ending: _Ending) -> RunOutcome:
    for step in ("benchmark", "promote"):  # planned in every run, submitted only once their inputs are known
        if not any(name == step for name, _ in run.journal.entries):
            run.journal.planned(step, "")
    record = _made_record(run, context, ending)
    outcome = record.outcome
    run.outcome, run.failure = outcome, ending.failure
    try:
        with store_errors(run.options.root):
            write_atomically(run.folder / "run.json", record.model_dump_json(indent=1) + "\n")
        run.report = write_run_page(context, record)
        write_index_page(context)
        with store_errors(run.options.root):
            context.store.keep_run(run.pipeline, run.id, record.artifacts)
    except (StoreError, TrustError) as error:
        run.failure = run.failure or str(error)
        run.outcome = outcome.model_copy(update={"status": "failed"}) if outcome.status == "passed" else outcome
    return run.outcome


def _golden_origin(context: Context, findings: Findings | None) -> tuple[str, ...]:
    if findings is None or findings.trunk is None:
        return ()
    return context.metrics(findings.trunk.data, DataMetrics).golden_origin
