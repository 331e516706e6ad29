"""Quality against latency: what no other result beats in both."""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.drawings.canvas import (
    BAD,
    GOOD,
    INK,
    MARKERS,
    MUTED,
    PAPER,
    SERIES,
    WIDTH,
    drawing,
    frame,
    plain_ticks,
    save,
    spread,
    text_inches,
)
from tasks.drawings.figures import Pareto, Quality

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_HEIGHT = 3.3


def draw_pareto(chart: Pareto, folder: Path) -> dict[str, str]:
    """One picture."""
    title = f"{chart.quality} against median latency at {chart.point}"
    with drawing(_HEIGHT) as figure:
        (axes,) = frame(figure, (0.62, 0.2, 0.45, 0.45))
        axes.set_xscale("log")
        best = front(chart.results, rises=chart.rises)
        _limits(axes, chart)
        if chart.source is not None:
            axes.axhline(chart.source, color=MUTED, linestyle=(0, (2, 3)), linewidth=1)
        if chart.limit is not None:
            axes.axhline(chart.limit, color=BAD, linestyle=(0, (6, 2)), linewidth=1)
        if chart.source_ms is not None:
            axes.axvline(chart.source_ms, color=MUTED, linestyle=(0, (2, 3)), linewidth=1)
        _front(axes, best)
        _refused(axes, chart)
        for index, result in enumerate(chart.results):
            colour = SERIES[index % len(SERIES)]
            marker = MARKERS[index % len(MARKERS)]
            axes.plot([result.p50_ms], [result.quality], marker=marker, color=colour, linestyle="", zorder=5)
            if result.promoted:
                axes.plot([result.p50_ms], [result.quality], marker="o", mfc="none", mec=GOOD, mew=1.8, ms=13, zorder=2)
        _names(axes, chart, best)
        axes.set_title(f"{chart.quality}, {'higher' if chart.rises else 'lower'} is better", pad=15)
        axes.set_xlabel(_within(f"median ms at {chart.point}, logarithmic"))
        save(figure, folder / "pareto.svg", title)
    return {"pareto.svg": title}


def _within(label: str) -> str:
    """A label below the axes, without its end where that would be cut off."""
    return label if text_inches([label]) < 0.6 * WIDTH else label.removesuffix(", logarithmic")


def _refused(axes: "Axes", chart: Pareto) -> None:
    """What was refused was not timed: hollow, at the right edge; what lies beyond the axes, at their end."""
    low, high = axes.get_ylim()
    for each in chart.refused:
        place = min(max(each.quality, low), high)
        axes.plot(
            [1.0], [place], transform=axes.get_yaxis_transform(), marker="o" if place == each.quality else "v",
            mfc=PAPER, mec=BAD, mew=1.4, clip_on=False, zorder=6,
        )  # fmt: skip
        axes.annotate(
            f"{each.name} {each.quality:.3g} (refused, not timed)", (1.0, place), xycoords=("axes fraction", "data"),
            xytext=(-8, 3), textcoords="offset points", ha="right", va="bottom", fontsize=7.5, color=MUTED,
        )  # fmt: skip


def front(results: tuple[Quality, ...], *, rises: bool) -> list[Quality]:
    """Those that no other one beats in latency without losing quality; fastest first."""
    sign = -1 if rises else 1
    kept: list[Quality] = []
    for result in sorted(results, key=lambda each: (each.p50_ms, sign * each.quality)):
        if not kept or sign * result.quality < sign * kept[-1].quality:
            kept.append(result)
    return kept


def _limits(axes: "Axes", chart: Pareto) -> None:
    values = [result.quality for result in chart.results]
    values += [each for each in (chart.source, chart.limit) if each is not None]
    times = [result.p50_ms for result in chart.results] + ([] if chart.source_ms is None else [chart.source_ms])
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
    _lines(axes, chart)


def _lines(axes: "Axes", chart: Pareto) -> None:
    """Say what each line is, at its end."""
    if chart.limit is not None and chart.limit != chart.source:
        _at_right(axes, "accepted down to" if chart.rises else "accepted up to", chart.limit)
    if chart.source is not None:
        _at_right(axes, "source model", chart.source)
    if chart.source_ms is not None:
        axes.annotate(
            "source framework", (chart.source_ms, 1), xycoords=("data", "axes fraction"), xytext=(0, 2),
            textcoords="offset points", ha="center", va="bottom", fontsize=7, color=MUTED,
        )  # fmt: skip


def _at_right(axes: "Axes", text: str, quality: float) -> None:
    axes.annotate(
        text, (1, quality), xycoords=("axes fraction", "data"), xytext=(-2, 3), textcoords="offset points",
        ha="right", fontsize=7, color=MUTED,
    )  # fmt: skip
