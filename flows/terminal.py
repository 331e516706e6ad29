"""What a run shows on the terminal: a live line for each step that works, then the table and the verdict."""

import sys
import threading
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flows import blame, speed, step_words, story
from flows.evidence import Evidence
from flows.journal import StepEntry
from flows.table import print_table
from tasks.core.outcome import RunOutcome
from tasks.core.promotions import Promotion

if TYPE_CHECKING:
    from rich.console import Console

_REFRESH_SECONDS = 0.2
_WORTH_TELLING_SECONDS = 1.0
# A log or a pipe has no width: lines are not broken there.
_LOG_COLUMNS = 200


class Progress:
    """Lines on stderr: one when a step starts to work and one when it ends; on a terminal with its elapsed time."""

    def __init__(self, pipeline: str, *, quiet: bool) -> None:
        self._pipeline = pipeline
        self._quiet = quiet
        self._live = not quiet and sys.stderr.isatty()
        self._working: dict[tuple[str, str], StepEntry] = {}
        self._computed: set[tuple[str, str]] = set()
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh, daemon=True)

    def __enter__(self) -> Self:
        if self._live:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._live:
            self._thread.join()
            self._write("\r\x1b[K")

    def changed(self, entry: StepEntry) -> None:
        """A step changed its state."""
        if self._quiet:
            return
        with self._lock:
            name = (entry.step, entry.subject)
            if entry.state in ("running", "computing"):
                self._working[name] = entry
                if entry.state == "computing":
                    self._computed.add(name)
                    self._write("" if self._live else f"  ...    {step_words.label(self._pipeline, entry)}\n")
                return
            self._working.pop(name, None)
            if entry.state == "failed" or (entry.state == "made" and name in self._computed):
                self._computed.discard(name)  # told once
                self._write(f"{self._clear()}{step_words.ended(self._pipeline, entry)}\n")

    def _clear(self) -> str:
        return "\r\x1b[K" if self._live else ""

    def _refresh(self) -> None:
        while not self._ended.wait(_REFRESH_SECONDS):
            with self._lock:
                working = " | ".join(filter(None, map(_at_work, self._working.values())))
                self._write(f"\r\x1b[K  {self._pipeline}: {working}"[: _columns()] if working else "\r\x1b[K")

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _at_work(entry: StepEntry) -> str:
    """What a step is doing; one that looks for its artifact is not worth a word, one that waits is."""
    name = f"{entry.step} {entry.subject}".strip()
    if entry.state == "computing":
        return f"{name} {entry.seconds:.0f} s"
    return f"{name} waits {entry.seconds:.0f} s" if entry.seconds > _WORTH_TELLING_SECONDS else ""


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns - 1


def print_outcome(outcome: RunOutcome, folder: Path, report: Path | None = None) -> None:
    """The table of engines, what is promoted, and where the record lies."""
    console = _console(stderr=False)
    console.print(f"{outcome.pipeline}: run {outcome.run}", style="bold", markup=False)
    print_table(console, outcome)
    _print_reasons(console, outcome, every=False)
    if outcome.promoted:
        _say(console, f"promoted {outcome.promoted.id}: {outcome.promoted.reason}")
    cached = sum(step.cached for step in outcome.steps)
    _say(console, f"{outcome.status} in {outcome.seconds:.1f} s, {cached} of {len(outcome.steps)} steps cached")
    if (folder / "run.json").is_file():  # it is not where the store cannot be written
        console.print(f"record: {folder / 'run.json'}", markup=False, soft_wrap=True)
    if report:
        console.print(f"report: {report}", markup=False, soft_wrap=True)


def print_record(found: Evidence, current: Promotion | None, report: Path) -> None:
    """A run in short: what its page says first, what is in force, and where the page is."""
    record, console = found.record, _console(stderr=False)
    outcome = record.outcome
    console.print(f"{outcome.pipeline}: run {outcome.run}", style="bold", markup=False)
    print_table(console, outcome)
    _print_reasons(console, outcome, every=True)
    _say(console, f"{outcome.status} in {outcome.seconds:.1f} s, started {record.started}")
    if record.failure:
        _say(console, f"failure: {record.failure}")
    for note in record.notes:
        _say(console, f"note: {note}")
    _say(console, f"promoted: {story.promoted_sentence(found)}")
    for sentence in speed.speed_sentences(found):
        _say(console, f"speed: {sentence}")
    for sentence in blame.error_sentences(found):
        _say(console, f"error: {sentence}")
    for refusal in story.refusals(found):
        if refusal.next_command:
            _say(console, f"to see why {refusal.id} was refused: {refusal.next_command}")
    _say(console, f"in force: {story.in_force(current)}")
    _say(console, f"the same again: trtflow run {outcome.pipeline}")
    if report.is_file():
        console.print(f"report: {report}", markup=False, soft_wrap=True)
    else:
        _say(console, f"report: none; make it: trtflow report {outcome.pipeline}")


def tell(text: str) -> None:
    """Say something about a run on stderr."""
    _say(_console(stderr=True), text)


def _console(*, stderr: bool) -> "Console":
    from rich.console import Console

    console = Console(highlight=False, stderr=stderr)
    if not console.is_terminal:
        console.width = _LOG_COLUMNS
    return console


def _say(console: "Console", text: str) -> None:
    """A sentence, broken between words on a terminal and nowhere else."""
    console.print(text, markup=False, soft_wrap=not console.is_terminal)


def _print_reasons(console: "Console", outcome: RunOutcome, *, every: bool) -> None:
    told: dict[str, list[str]] = {}
    for engine in outcome.engines:
        if every or engine.status != "passed":
            told.setdefault(f"{engine.status}: {engine.reason}", []).append(engine.id)
    for reason, engines in told.items():  # what they share failed once
        _say(console, f"{', '.join(engines)}: {reason}")
