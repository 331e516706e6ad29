"""Where the error was made: a row for each result, a mark for each hop."""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.metrics import UNBOUNDED
from tasks.drawings.canvas import BAD, FAINT, INK, MUTED, SERIES, drawing, figure_text, frame, save, text_inches
from tasks.drawings.figures import HopRow, Hops

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMES = {
    "export": "export",
    "fold": "fold",
    "prune": "prune",
    "precision_cost": "precision",
    "runtime_cost": "runtime",
}
_MARKS = {"export": "<", "fold": "v", "prune": "P", "precision_cost": "s", "runtime_cost": "^"}
_COLOURS = {"export": 2, "fold": 3, "prune": 4, "precision_cost": 0, "runtime_cost": 1}
_ROW = 0.36
# Left of this, an error is rounding; one of nothing at all stands at the edge.
_SMALLEST, _LARGEST = 1e-8, 10.0
# Right of the largest error there is room for what is written beside it.
_EDGE = 2e4


def draw_hops(chart: Hops, folder: Path) -> dict[str, str]:
    """One picture."""
    height = 0.95 + _ROW * len(chart.rows)
    with drawing(height) as figure:
        (axes,) = frame(figure, (text_inches(row.name for row in chart.rows) + 0.12, 0.12, 0.42, 0.45))
        axes.set_xscale("log")
        axes.set_xlim(_SMALLEST / 4, _EDGE)  # a mark at 0 stands free of the names
        axes.set_ylim(len(chart.rows) - 0.4, -0.6)
        axes.set_yticks(range(len(chart.rows)), [row.name for row in chart.rows])
        axes.tick_params(axis="y", length=0)
        axes.set_xticks([10.0**power for power in (-8, -6, -4, -2, 0)], ["0", "1e-6", "1e-4", "0.01", "1"])
        axes.minorticks_off()
        axes.set_xlabel("relative L2 error, logarithmic")
        axes.grid(visible=False, axis="y")
        for place, row in enumerate(chart.rows):
            _draw_row(axes, place, row)
        present = [name for name in NAMES if any(name in row.hops for row in chart.rows)]
        _legend(axes, present)
        title = "Relative L2 error of each hop, for each result"
        save(figure, folder / "hops.svg", title)
    return {"hops.svg": title}


def _place(error: float) -> float:
    return min(max(error, _SMALLEST), _LARGEST)


def _draw_row(axes: "Axes", place: int, row: HopRow) -> None:
    whole = _place(row.hops["vs_source"])
    axes.plot([_SMALLEST, whole], [place, place], color=FAINT, linewidth=5, solid_capstyle="butt", zorder=1)
    axes.plot([whole], [place], marker="|", color=BAD if row.refused else INK, markersize=15, mew=2, zorder=2)
    worst = max((name for name in row.hops if name != "vs_source"), key=lambda name: row.hops[name])
    for name in NAMES:
        if name in row.hops:
            axes.plot(
                [_place(row.hops[name])],
                [place],
                marker=_MARKS[name],
                color=SERIES[_COLOURS[name]],
                markersize=6 if name == worst else 4.5,
                clip_on=False,
                zorder=3,
            )
    error = row.hops[worst]
    if error:
        told = "NaN or Inf" if error >= UNBOUNDED else figure_text(error)
        axes.annotate(
            f"{NAMES[worst]} {told}",
            (max(_place(error), whole), place),
            xytext=(8, 0),
            textcoords="offset points",
            va="center_baseline",
            color=BAD if row.refused else MUTED,
            fontsize=7.5,
            zorder=4,
        )


def _legend(axes: "Axes", present: list[str]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        *(Line2D([], [], linestyle="", marker=_MARKS[n], color=SERIES[_COLOURS[n]], label=NAMES[n]) for n in present),
        Line2D([], [], linestyle="", marker="|", color=INK, markersize=10, mew=2, label="whole way"),
    ]
    axes.legend(
        handles=handles,
        loc="lower right",
        bbox_to_anchor=(1.03, 1.0),
        ncols=len(handles),
        frameon=False,
        fontsize=7.5,
        handletextpad=0.1,
        columnspacing=1.0,
        borderaxespad=0.2,
    )
