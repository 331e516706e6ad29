"""Latency and throughput over the points of the benchmark."""

from pathlib import Path

from tasks.drawings.canvas import (
    MARKERS,
    MUTED,
    SERIES,
    drawing,
    frame,
    name_ends,
    plain_ticks,
    save,
    text_inches,
)
from tasks.drawings.figures import Sweep, Timing

_PANEL = 2.3


def draw_sweep(chart: Sweep, folder: Path) -> dict[str, str]:
    """Two pictures."""
    pictures = {
        "sweep-latency.svg": "Median latency in milliseconds by point",
        "sweep-throughput.svg": "Samples per second by point",
    }
    for name, title in pictures.items():
        _draw(chart, folder / name, title)
    return pictures


def _draw(chart: Sweep, path: Path, title: str) -> None:
    names = list(dict.fromkeys(timing.name for timing in chart.timings))
    with drawing(_PANEL + 0.1 * len(names)) as figure:
        (axes,) = frame(figure, (0.5, text_inches(names) + 0.2, 0.35, 0.35))
        axes.set_yscale("log")
        axes.set_xlim(-0.12, len(chart.points) - 0.88)
        axes.set_xticks(range(len(chart.points)), chart.points)
        axes.grid(visible=False, axis="x")
        axes.set_title(f"{title}, logarithmic")
        ends = {}
        for index, name in enumerate(names):
            line = _line(chart, name, latency="latency" in path.name)
            colour = MUTED if _baseline(chart, name) else SERIES[index % len(SERIES)]
            marker = MARKERS[index % len(MARKERS)]
            dashes = "--" if _baseline(chart, name) else "-"
            axes.plot(list(line), list(line.values()), color=colour, marker=marker, linestyle=dashes)
            ends[name] = (max(line), line[max(line)], colour)
        low, high = axes.get_ylim()
        axes.set_ylim(low * 0.8, high * 1.25)
        plain_ticks(axes, "y")
        name_ends(axes, ends)
        save(figure, path, title)


def _line(chart: Sweep, name: str, *, latency: bool) -> dict[int, float]:
    def value(timing: Timing) -> float:
        return timing.p50_ms if latency else timing.throughput_per_s

    return {chart.points.index(timing.point): value(timing) for timing in chart.timings if timing.name == name}


def _baseline(chart: Sweep, name: str) -> bool:
    return any(timing.baseline for timing in chart.timings if timing.name == name)
