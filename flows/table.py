"""The table of a run's results: a row for each result and measured point, in one table or, where narrow, in two."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from tasks.core.metrics import UNBOUNDED
from tasks.core.outcome import EngineOutcome, LatencyOutcome, RunOutcome

if TYPE_CHECKING:
    from rich.console import Console

_STYLES = {"promoted": "bold green", "passed": "green", "failed": "red", "error": "red", "skipped": "dim"}
_GAP = 2
# From here on, three digits are enough: of a rate without its fraction, of a ratio with one digit of it.
_WHOLE = 100
_TEN = 10
_TOO_FEW = "too few"
_BASELINE = "baseline"


@dataclass(frozen=True)
class _Row:
    """One result at one point; `verdict` is told in its first row."""

    engine: EngineOutcome
    point: LatencyOutcome | None
    verdict: str

    @property
    def name(self) -> str:
        return self.engine.id if self.verdict else ""


@dataclass(frozen=True)
class _Column:
    """What stands under a title, for each row; empty texts show nothing."""

    title: str
    cells: tuple[str, ...]
    justify: Literal["left", "right"] = "right"

    @property
    def width(self) -> int:
        return max(map(len, (self.title, *self.cells)))


def print_table(console: "Console", outcome: RunOutcome) -> None:
    """Print what came out and how fast it is; a column that has nothing to say is left out."""
    rows = list(_rows(outcome))
    timed = [row for row in rows if row.point]
    verdict = _column("verdict", rows, lambda row: row.verdict, "left")
    whole = [_names(rows), *_results(rows), *_latencies(rows), verdict]
    if not timed or _width(whole) <= console.width:
        _print(console, whole)
    else:
        first = [row for row in rows if row.verdict]
        short = _column("verdict", first, lambda row: row.verdict, "left")
        _print(console, [_names(first), short, *_results(first)])
        _print(console, [_names(timed), *_latencies(timed)])
    for line in _legend(rows):
        console.print(line, style="dim", markup=False, soft_wrap=not console.is_terminal)


def cells(outcome: RunOutcome) -> dict[str, tuple[str, ...]]:
    """The whole table by column, for where a row stands on its own: each says which result it is of."""
    rows = [replace(row, verdict=_verdict(outcome, row.engine)) for row in _rows(outcome)]
    verdict = _column("verdict", rows, lambda row: row.verdict)
    reason = _column("reason", rows, lambda row: row.engine.reason)
    columns = (_names(rows), verdict, *_results(rows), *_latencies(rows), reason)
    return {column.title: column.cells for column in columns}


def _verdict(outcome: RunOutcome, engine: EngineOutcome) -> str:
    promoted = outcome.promoted is not None and engine.id == outcome.promoted.id
    return "promoted" if promoted else str(engine.status)


def _rows(outcome: RunOutcome) -> Iterator[_Row]:
    for engine in outcome.engines:
        points: tuple[LatencyOutcome | None, ...] = engine.latency or (None,)
        for index, point in enumerate(points):
            yield _Row(engine, point, _verdict(outcome, engine) if index == 0 else "")


def _column(
    title: str, rows: Sequence[_Row], cell: Callable[[_Row], str], justify: Literal["left", "right"] = "right"
) -> _Column:
    return _Column(title, tuple(cell(row) for row in rows), justify)


def _names(rows: Sequence[_Row]) -> _Column:
    return _column("engine", rows, lambda row: row.name, "left")


def _results(rows: Sequence[_Row]) -> list[_Column]:
    columns = [
        _column("size", rows, lambda row: _size(row.engine) if row.verdict else ""),
        _column("error", rows, lambda row: _error(row.engine) if row.verdict else ""),
        _column("metric", rows, lambda row: _metric(row.engine) if row.verdict else ""),
    ]
    return [column for column in columns if any(column.cells)]


def _latencies(rows: Sequence[_Row]) -> list[_Column]:
    against = _baselines(rows)
    columns = [
        _column("at", rows, lambda row: _at(row.point) if row.point else "", "left"),
        _column("p50 ms", rows, lambda row: f"{row.point.p50_ms:.3g}" if row.point else ""),
        _column("p99 ms", rows, lambda row: _percentile(row.point.p99_ms) if row.point else ""),
        _column("samples/s", rows, lambda row: _rate(row.point.throughput_per_s) if row.point else ""),
        _column("speed-up", rows, lambda row: _speedup(row, against) if row.point else ""),
    ]
    return [column for column in columns if any(column.cells)]


def _baselines(rows: Sequence[_Row]) -> list[str]:
    named = (row.point.speedup_against for row in rows if row.point and row.point.speedup_against)
    return list(dict.fromkeys(named))


def size_text(size: int) -> str:
    """Bytes for people."""
    from rich.filesize import decimal

    return decimal(size)


def _size(engine: EngineOutcome) -> str:
    return "" if engine.size_bytes is None else size_text(engine.size_bytes)


def metric_text(value: float) -> str:
    """A metric for people: by its significant digits, so that a small one is no zero and 0.99995 no 1."""
    return f"{value:.6g}"


def _error(engine: EngineOutcome) -> str:
    if engine.parity is None:
        return ""
    error = engine.parity.vs_source.rel_l2
    return "NaN or Inf" if error >= UNBOUNDED else f"{error:.1e}" if error else "0"


def _metric(engine: EngineOutcome) -> str:
    return "" if engine.metric is None else metric_text(engine.metric)


def _at(point: LatencyOutcome) -> str:
    return ", ".join(f"{dim} {size}" for dim, size in point.at.items()) or "fixed shape"


def _percentile(value: float | None) -> str:
    return _TOO_FEW if value is None else f"{value:.3g}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= _WHOLE else f"{value:.3g}"


def _speedup(row: _Row, against: list[str]) -> str:
    point = row.point
    if point is None or point.speedup is None:
        return _BASELINE if row.engine.id in against else ""
    interval = f" ({_times(point.speedup_ci95[0])} to {_times(point.speedup_ci95[1])})" if point.speedup_ci95 else ""
    beside = f" vs {point.speedup_against}" if len(against) > 1 else ""
    return f"{_times(point.speedup)}x{interval}{beside}"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < _TEN else f"{ratio:.1f}" if ratio < _WHOLE else f"{ratio:,.0f}"


def _legend(rows: Sequence[_Row]) -> Iterator[str]:
    """What a newcomer would have to look up."""
    if any(row.engine.parity for row in rows):
        yield "error: relative L2 distance of the outputs from the source model's own"
    against = _baselines(rows)
    if against:
        than = f"how many times faster than {against[0]}" if len(against) == 1 else "how many times faster"
        yield f"speed-up: {than} (95 % interval)"
    if any(row.point and row.point.p99_ms is None for row in rows):
        yield f"{_TOO_FEW}: a p99 needs 100 samples, which take more benchmark.seconds"


def aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of cells as plain text, one column below the other; the first line is the titles."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        yield (" " * _GAP).join(f"{cell:{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width + _GAP for column in columns) - _GAP


def _print(console: "Console", columns: Sequence[_Column]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0))
    for column in columns:
        table.add_column(column.title, justify=column.justify, no_wrap=True)
    for cells in zip(*(column.cells for column in columns), strict=True):
        table.add_row(*(f"[{_STYLES[cell]}]{cell}[/]" if cell in _STYLES else cell for cell in cells))
    with console.capture() as printed:
        console.print(table)
    for line in printed.get().splitlines():  # rich fills lines up with blanks, which logs do not need
        console.out(line.rstrip(), highlight=False)
