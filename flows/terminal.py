"""What a run shows on the terminal: a live line for each step that works, then the table and the verdict."""

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flows.journal import StepEntry
from flows.run import Run
from tasks.core.outcome import EngineOutcome, LatencyOutcome, RunOutcome, RunRecord
from tasks.core.promotions import Promotion

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_REFRESH_SECONDS = 0.2
_MARKS = {
    "passed": "[green]passed[/]",
    "failed": "[red]failed[/]",
    "error": "[red]error[/]",
    "skipped": "[dim]skipped[/]",
}


class Progress:
    """Lines on stderr: one when a step starts to work and one when it ends; on a terminal with its elapsed time."""

    def __init__(self, pipeline: str, *, quiet: bool) -> None:
        self._pipeline = pipeline
        self._quiet = quiet
        self._live = not quiet and sys.stderr.isatty()
        self._working: dict[tuple[str, str], StepEntry] = {}
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
            if entry.state == "computing":
                self._working[name] = entry
                if not self._live:
                    self._write(f"  ...    {self._label(entry)}\n")
                return
            worked = self._working.pop(name, None) is not None
            if entry.state in ("made", "failed") and (worked or entry.state == "failed"):
                what = f"{entry.seconds:6.1f} s" if entry.state == "made" else "  failed"
                self._write(f"{self._clear()}{what} {self._label(entry)}{f': {entry.error}' if entry.error else ''}\n")

    def _label(self, entry: StepEntry) -> str:
        return f"{self._pipeline} {entry.step} {entry.subject}".rstrip()

    def _clear(self) -> str:
        return "\r\x1b[K" if self._live else ""

    def _refresh(self) -> None:
        while not self._ended.wait(_REFRESH_SECONDS):
            with self._lock:
                working = [
                    f"{entry.step} {entry.subject}".strip() + f" {entry.seconds:.0f} s"
                    for entry in self._working.values()
                ]
                self._write(
                    f"\r\x1b[K  {self._pipeline}: {' | '.join(working)}"[: _columns()] if working else "\r\x1b[K"
                )

    def _write(self, text: str) -> None:
        sys.stderr.write(text)
        sys.stderr.flush()


def _columns() -> int:
    import shutil

    return shutil.get_terminal_size().columns - 1


def print_outcome(outcome: RunOutcome, run: Run) -> None:
    """The table of engines, what is promoted, and where the record lies."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    if not console.is_terminal:
        console.width = 200  # a log or a pipe has no width: do not break lines at 80
    console.print(engine_table(outcome))
    for engine in outcome.engines:
        if engine.status != "passed":
            console.print(f"{engine.id}: {engine.status}: {engine.reason}", markup=False)
    _print_end(console, outcome, run)


def engine_table(outcome: RunOutcome) -> "Table":
    """One row a result and point."""
    from rich.table import Table

    table = Table(title=f"{outcome.pipeline}  run {outcome.run}", title_justify="left", box=None, pad_edge=False)
    for name in ("engine", "size", "rel L2", "metric", "at", "p50 ms", "p99 ms", "per s", "speed-up", "verdict"):
        table.add_column(name, justify="left" if name in ("engine", "at", "verdict") else "right", no_wrap=True)
    for engine in outcome.engines:
        points: tuple[LatencyOutcome | None, ...] = engine.latency or (None,)
        for index, point in enumerate(points):
            mark = _MARKS.get(engine.status, engine.status)
            if outcome.promoted and outcome.promoted.id == engine.id:
                mark = "[bold green]promoted[/]"
            head = (*_engine_cells(engine),) if index == 0 else ("", "", "", "")
            table.add_row(*head, *_point_cells(point), mark if index == 0 else "")
    return table


def _engine_cells(engine: EngineOutcome) -> tuple[str, str, str, str]:
    error = f"{engine.parity.vs_source.rel_l2:.1e}" if engine.parity else "-"
    metric = "-" if engine.metric is None else f"{engine.metric:.4f}"
    return engine.id, "-" if engine.size_bytes is None else size_text(engine.size_bytes), error, metric


def _point_cells(point: LatencyOutcome | None) -> tuple[str, str, str, str, str]:
    if point is None:
        return "-", "-", "-", "-", "-"
    at = ", ".join(f"{dim} {size}" for dim, size in point.at.items()) or "fixed"
    speedup = "-"
    if point.speedup is not None:
        low, high = point.speedup_ci95 or (point.speedup, point.speedup)
        speedup = f"{point.speedup:.2f}x [{low:.2f}, {high:.2f}] vs {point.speedup_against}".replace("[", r"\[")
    return at, _ms(point.p50_ms), _ms(point.p99_ms), f"{point.throughput_per_s:.4g}", speedup


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def size_text(size: int) -> str:
    """Bytes for people."""
    from rich.filesize import decimal

    return decimal(size)


def _print_end(console: "Console", outcome: RunOutcome, run: Run) -> None:
    cached = sum(step.cached for step in outcome.steps)
    took = f"{outcome.status} in {outcome.seconds:.1f} s, {cached} of {len(outcome.steps)} steps cached"
    if outcome.promoted:
        console.print(f"promoted {outcome.promoted.id}: {outcome.promoted.reason}", markup=False)
    console.print(took, markup=False)
    console.print(f"record: {run.folder / 'run.json'}", markup=False, soft_wrap=True)


def print_record(record: RunRecord, current: Promotion | None) -> None:
    """The last run in short, and what is in force."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 200
    console.print(engine_table(record.outcome))
    for engine in record.outcome.engines:
        console.print(f"{engine.id}: {engine.status}: {engine.reason}", markup=False)
    if record.failure:
        console.print(f"failure: {record.failure}", markup=False)
    if "synthetic" in record.golden_origin:
        console.print("note: parity was measured on synthetic inputs", markup=False)
    for note in record.notes:
        console.print(f"note: {note}", markup=False)
    in_force = f"{current.id} ({current.key[:12]}) since {current.at}" if current else "nothing"
    console.print(f"in force: {in_force}", markup=False)
