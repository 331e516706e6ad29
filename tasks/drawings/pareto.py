"""Quality against latency: what no other result beats in both."""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.drawings.canvas import GOOD, INK, MARKERS, MUTED, PAPER, SERIES, drawing, frame, plain_ticks, save, spread
from tasks.drawings.figures import Pareto, Quality

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT = 3.0


def draw_pareto(chart: Pareto, folder: Path) -> dict[str, str]:
    """One picture."""
    title = f"{chart.quality} against median latency at {chart.point}"
    with drawing(_HEIGHT) as figure:
        (axes,) = frame(figure, (0.62, 0.15, 0.35, 0.45))
        axes.set_xscale("log")
        best = front(chart.results, rises=chart.rises)
        _limits(axes, chart)
        if chart.source is not None:
            axes.axhline(chart.source, color=MUTED, linestyle=(0, (2, 3)), linewidth=1)
        _front(axes, best)
        for index, result in enumerate(chart.results):
            colour = SERIES[index % len(SERIES)]
            marker = MARKERS[index % len(MARKERS)]
            axes.plot([result.p50_ms], [result.quality], marker=marker, color=colour, linestyle="", zorder=3)
            if result.promoted:
                axes.plot([result.p50_ms], [result.quality], marker="o", mfc="none", mec=GOOD, mew=1.8, ms=13, zorder=2)
        _names(axes, chart, best)
        axes.set_title(f"{chart.quality}, {'higher' if chart.rises else 'lower'} is better")
        axes.set_xlabel(f"median ms at {chart.point}, logarithmic")
        save(figure, folder / "pareto.svg", title)
    return {"pareto.svg": title}


def front(results: tuple[Quality, ...], *, rises: bool) -> list[Quality]:
    """Those that no other one beats in latency without losing quality; fastest first."""
    sign = -1 if rises else 1
    kept: list[Quality] = []
    for result in sorted(results, key=lambda each: (each.p50_ms, sign * each.quality)):
        if not kept or sign * result.quality < sign * kept[-1].quality:
            kept.append(result)
    return kept


def _limits(axes: "Axes", chart: Pareto) -> None:
    values = [result.quality for result in chart.results] + ([] if chart.source is None else [chart.source])
    times = [result.p50_ms for result in chart.results]
    room = (max(values) - min(values)) * 0.2 or max(abs(values[0]) * 0.005, 1e-6)
    axes.set_xlim(min(times) * 0.7, max(times) * 1.6)
    if chart.logarithmic:
        axes.set_yscale("log")
        axes.set_ylim(min(values) / 3, max(values) * 3)
        plain_ticks(axes, "y")
    else:
        axes.set_ylim(min(values) - room, max(values) + room)
        axes.ticklabel_format(axis="y", useOffset=False)
    plain_ticks(axes, "x")


def _front(axes: "Axes", best: list[Quality]) -> None:
    axes.step(
        [each.p50_ms for each in best],
        [each.quality for each in best],
        where="post",
        color=GOOD,
        linewidth=1.2,
        alpha=0.8,
        zorder=1,
    )


def _names(axes: "Axes", chart: Pareto, best: list[Quality]) -> None:
    """Beside each mark its name, moved apart where they would meet; toward the middle, where there is room."""
    places = [axes.transData.transform((each.p50_ms, each.quality)) for each in chart.results]
    middle = axes.transAxes.transform((0.55, 0.5))[0]
    left = [bool(place[0] > middle) for place in places]
    heights = [float(place[1]) for place in places]
    for result, side, was, place in zip(chart.results, left, heights, spread(heights, 12.5), strict=True):
        axes.annotate(
            result.name + (" (promoted)" if result.promoted else ""),
            (result.p50_ms, result.quality),
            xytext=(-9 if side else 9, (place - was) * 72 / axes.figure.dpi),
            textcoords="offset points",
            ha="right" if side else "left",
            va="center_baseline",
            fontsize=7.5,
            color=INK if result in best else MUTED,
            fontweight="bold" if result.promoted else "normal",
            bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6},  # a line behind it is not to strike it out
        )
    if chart.source is not None:
        axes.annotate(
            "source model",
            (1, chart.source),
            xycoords=("axes fraction", "data"),
            xytext=(-2, 3),
            textcoords="offset points",
            ha="right",
            fontsize=7,
            color=MUTED,
        )
