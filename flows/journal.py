"""What happened to every step of a run: for progress on the terminal, for run.json and for `--json`."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tasks.core.outcome import StepOutcome, TimelineEntry
from tasks.core.report import Artifact
from tasks.core.store import Produced

StepState = Literal["waiting", "running", "computing", "cached", "made", "failed"]


@dataclass
class StepEntry:
    """One step of the run; `started` and `ended` are seconds of a monotonic clock, `made` the key that it made."""

    step: str
    subject: str
    state: StepState = "waiting"
    started: float = 0.0
    ended: float = 0.0
    artifact: Artifact | None = None
    error: str = ""
    made: str = ""

    @property
    def seconds(self) -> float:
        """How long the step has taken so far, or took."""
        if not self.started:
            return 0.0
        return (self.ended or time.monotonic()) - self.started


@dataclass
class Journal:
    """The steps in the order in which they were planned; safe to use from several threads."""

    changed: Callable[[StepEntry], None] = lambda _: None
    entries: dict[tuple[str, str], StepEntry] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def planned(self, step: str, subject: str) -> None:
        """The step belongs to this run."""
        with self._lock:
            self.entries.setdefault((step, subject), StepEntry(step, subject))

    def started(self, step: str, subject: str) -> None:
        """The step has its inputs. One that was begun ahead took from then."""
        if self._entry(step, subject).state in ("waiting", "failed"):
            self._change(step, subject, state="running", started=time.monotonic())

    def computing(self, step: str, subject: str) -> None:
        """The step found no artifact and starts to work."""
        self._change(step, subject, state="computing")

    def produced(self, step: str, subject: str, produced: Produced) -> None:
        """The step has its artifact."""
        key = produced.artifact.key
        # After a repair the steps run again, and find what they made in this same run.
        made = not produced.cached or self._entry(step, subject).made == key
        state: StepState = "made" if made else "cached"
        self._change(step, subject, state=state, ended=time.monotonic(), artifact=produced.artifact)
        if made:
            self._change(step, subject, made=key)
        if produced.rebuilt:
            self.notes.append(f"rebuilt: {produced.artifact.folder}: {produced.rebuilt}")

    def ended(self, step: str, subject: str) -> None:
        """The step returned; one that makes no artifact is done by that."""
        if self._entry(step, subject).artifact is None:
            self._change(step, subject, state="made", ended=time.monotonic())

    def failed(self, step: str, subject: str, error: BaseException) -> None:
        """The step raised."""
        first = (str(error).splitlines() or [type(error).__name__])[0]
        self._change(step, subject, state="failed", ended=time.monotonic(), error=first)

    def passed_over(self, step: str, subject: str, reason: BaseException) -> None:
        """The step had nothing to do: what it would have run does not run here."""
        self._change(step, subject, state="waiting", ended=time.monotonic(), error=str(reason).splitlines()[0])

    def restarted(self) -> None:
        """All steps run again, because what one of them made before was damaged."""
        with self._lock:
            for entry in self.entries.values():
                entry.state, entry.error = "waiting", ""

    def outcomes(self) -> tuple[StepOutcome, ...]:
        """All steps as `--json` prints them."""
        with self._lock:
            return tuple(_outcome(entry) for entry in self.entries.values())

    def timeline(self, began: float) -> tuple[TimelineEntry, ...]:
        """All steps with when they ran, counted from `began` on the monotonic clock."""
        with self._lock:
            return tuple(_timed(entry, began) for entry in self.entries.values())

    def artifacts(self) -> tuple[Artifact, ...]:
        """Every artifact that this run made or used."""
        with self._lock:
            return tuple(entry.artifact for entry in self.entries.values() if entry.artifact is not None)

    def _entry(self, step: str, subject: str) -> StepEntry:
        with self._lock:
            return self.entries.setdefault((step, subject), StepEntry(step, subject))

    def _change(self, step: str, subject: str, **changes: object) -> None:
        entry = self._entry(step, subject)
        for name, value in changes.items():
            setattr(entry, name, value)
        self.changed(entry)


def _status(entry: StepEntry) -> Literal["done", "failed", "not_reached"]:
    if entry.state in ("cached", "made"):
        return "done"
    return "failed" if entry.state == "failed" else "not_reached"


def _timed(entry: StepEntry, began: float) -> TimelineEntry:
    status = _status(entry)
    ran = entry.started and status != "not_reached"
    return TimelineEntry(
        step=entry.step,
        subject=entry.subject,
        start=round(entry.started - began, 3) if ran else 0.0,
        seconds=round(entry.seconds, 3) if ran else 0.0,
        cached=entry.state == "cached",
        status=status,
        error=entry.error,
        artifact=entry.artifact.folder if entry.artifact else None,
    )


def _outcome(entry: StepEntry) -> StepOutcome:
    status = _status(entry)
    return StepOutcome(
        step=entry.step,
        key=entry.artifact.key if entry.artifact else None,
        cached=entry.state == "cached",
        status=status,
        seconds=round(entry.seconds, 3) if status != "not_reached" else 0.0,
    )
