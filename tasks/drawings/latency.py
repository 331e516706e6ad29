"""How latencies scatter: for each point a picture, in it a row for each candidate and baseline."""

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.drawings.canvas import (
    FAINT,
    INK,
    MUTED,
    PAPER,
    SERIES,
    drawing,
    figure_text,
    frame,
    plain_ticks,
    save,
    text_inches,
)
from tasks.drawings.figures import Latency

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from numpy.typing import NDArray

_ROW = 0.54
_BINS = 60


def draw_latency(chart: Latency, samples: Path, folder: Path) -> dict[str, str]:
    """One picture for each point."""
    import numpy as np

    pictures = {}
    with np.load(samples) as raw:
        for index, point in enumerate(chart.points):
            pooled = {name: _pooled(raw, index, name) for name in chart.labels}
            name, title = f"latency-{index}.svg", f"Distribution of latencies at {point}"
            _draw(chart, {name: times for name, times in pooled.items() if times.size}, (folder / name, title), point)
            pictures[name] = title
    return pictures


def _pooled(raw: "np.lib.npyio.NpzFile", index: int, name: str) -> "NDArray[np.float64]":
    """All samples of one candidate in milliseconds; its rounds are kept under the index of the point and its name."""
    import numpy as np

    prefix = f"{index}/{name}/"
    rounds = [raw[key] for key in raw.files if key.startswith(prefix) and key.removeprefix(prefix).isdecimal()]
    return np.concatenate(rounds).astype(np.float64) / 1e6 if rounds else np.empty(0)


def _draw(chart: Latency, pooled: "dict[str, NDArray[np.float64]]", save_as: tuple[Path, str], point: str) -> None:
    import numpy as np

    low = min(times.min() for times in pooled.values()) * 0.9
    high = max(np.percentile(times, 99.5) for times in pooled.values()) * 1.25
    labels = [f"{chart.labels[name]}\n{times.size} samples" for name, times in pooled.items()]
    with drawing(0.85 + _ROW * len(pooled)) as figure:
        (axes,) = frame(figure, (text_inches("\n".join(labels).split("\n")) + 0.12, 0.12, 0.3, 0.45))
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        plain_ticks(axes, "x")
        axes.set_ylim(len(pooled) - 0.45, -0.65)
        axes.set_yticks(range(len(pooled)), labels)
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        axes.set_title(point)
        axes.set_xlabel("milliseconds, logarithmic")
        edges = np.geomspace(low, high, _BINS + 1)
        for place, (name, times) in enumerate(pooled.items()):
            _draw_row(axes, place, (times, edges), baseline=name in chart.baselines)
        save(figure, *save_as)


def _draw_row(
    axes: "Axes", place: int, data: "tuple[NDArray[np.float64], NDArray[np.float64]]", *, baseline: bool
) -> None:
    import numpy as np

    times, edges = data
    counts, _ = np.histogram(times, edges)
    heights = 0.55 * counts / max(counts.max(), 1)
    colour = MUTED if baseline else SERIES[0]
    axes.stairs(place - heights, edges, baseline=place, fill=True, color=colour, alpha=0.45, linewidth=0)
    p25, p50, p75, p99 = np.percentile(times, (25, 50, 75, 99))
    axes.plot([p25, p75], [place + 0.12] * 2, color=colour, linewidth=4, solid_capstyle="butt")
    axes.plot([p75, p99], [place + 0.12] * 2, color=FAINT if baseline else colour, linewidth=1)
    axes.plot([p99], [place + 0.12], marker="|", color=colour, markersize=6)
    axes.plot([p50], [place + 0.12], marker="o", color=PAPER, mec=INK, mew=1.2, markersize=5)
    axes.annotate(
        figure_text(float(p50)),
        (p50, place + 0.12),
        xytext=(0, -5),
        textcoords="offset points",
        ha="center",
        va="top",
        fontsize=7,
        color=INK,
    )
