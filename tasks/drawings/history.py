"""Latency and metric over time, with what was promoted when."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.drawings.canvas import (
    BAD,
    GOOD,
    INK,
    MARKERS,
    SERIES,
    drawing,
    frame,
    name_ends,
    plain_ticks,
    save,
    text_inches,
)
from tasks.drawings.figures import History, Measured

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL = 2.5


def draw_history(chart: History, folder: Path) -> dict[str, str]:
    """A picture of the latencies, and one of the metric where there is one."""
    latency = f"Median ms at {chart.point}, by time"
    pictures = {}
    if any(each.p50_ms is not None for each in chart.measured):
        pictures["history-latency.svg"] = latency
        _draw(chart, lambda each: each.p50_ms, (folder / "history-latency.svg", latency))
    if any(each.metric is not None for each in chart.measured):
        pictures["history-metric.svg"] = "Metric, by time"
        _draw(chart, lambda each: each.metric, (folder / "history-metric.svg", "Metric, by time"))
    return pictures


def _draw(chart: History, value: Callable[[Measured], float | None], save_as: tuple[Path, str]) -> None:
    path, title = save_as
    every = list(dict.fromkeys(each.name for each in chart.measured))
    lines = {
        name: [(each.at, found) for each in chart.measured if each.name == name and (found := value(each)) is not None]
        for name in every
    }
    with drawing(_PANEL + 0.1 * len(every)) as figure:
        (axes,) = frame(figure, (0.62, text_inches(every) + 0.2, 0.5, 0.35))
        axes.grid(visible=False, axis="x")
        if "latency" in path.name:
            axes.set_yscale("log")
        ends = {}
        for index, name in enumerate(every):
            if lines[name]:
                colour = SERIES[index % len(SERIES)]
                times, values = zip(*lines[name], strict=True)
                axes.plot(times, values, color=colour, marker=MARKERS[index % len(MARKERS)], markersize=4.5)
                ends[name] = (values[-1], colour)
        _limits(axes, chart, logarithmic="latency" in path.name)
        _decisions(axes, chart)
        edge = axes.get_xlim()[1]
        name_ends(axes, {name: (edge, y, colour) for name, (y, colour) in ends.items()})
        axes.set_title(title, pad=20)
        save(figure, path, title)


def _limits(axes: "Axes", chart: History, *, logarithmic: bool) -> None:
    times = [*(each.at for each in chart.measured), *(each.at for each in chart.decisions)]
    first, last = min(times), max(times)
    room = (last - first) * 0.04 or 3600.0
    axes.set_xlim(first - room, last + room)
    ticks = [first + (last - first) * share for share in (0, 1)] if last > first else [first]
    days = last - first > 2 * 86400
    form = "%Y-%m-%d" if days else "%m-%d %H:%M"
    axes.set_xticks(ticks, [f"{datetime.fromtimestamp(tick, UTC):{form}}" for tick in ticks])
    if logarithmic:
        low, high = axes.get_ylim()
        axes.set_ylim(low * 0.85, high * 1.15)
        plain_ticks(axes, "y")
    else:
        axes.ticklabel_format(axis="y", useOffset=False)


def _decisions(axes: "Axes", chart: History) -> None:
    """A line for each decision; the newest ones are named above it."""
    if not chart.decisions:
        return
    wanted = [float(axes.transData.transform((each.at, 0))[0]) for each in chart.decisions]
    newest = len(chart.decisions) - 1
    for index, each in enumerate(chart.decisions):
        promoted = each.kind == "promotion"
        colour = GOOD if promoted else BAD
        axes.axvline(each.at, color=colour, linewidth=1, linestyle="-" if promoted else (0, (2, 2)), zorder=1)
        axes.plot(
            [each.at], [1.0], transform=axes.get_xaxis_transform(), marker="^" if promoted else "v", color=colour,
            markersize=6, clip_on=False, zorder=4,
        )  # fmt: skip
        if index == newest:
            right = wanted[index] > float(axes.transAxes.transform((0.5, 0))[0])
            what = f"{'promoted' if promoted else 'rolled back to'} {each.name or 'nothing'}"
            axes.annotate(
                what, (each.at, 1.0), xycoords=axes.get_xaxis_transform(), xytext=(-6 if right else 6, 6),
                textcoords="offset points", ha="right" if right else "left", fontsize=7, color=INK,
                annotation_clip=False,
            )  # fmt: skip
