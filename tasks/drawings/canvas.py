"""Figures in the page's own colours: what is drawn here is recoloured by the page's style sheet (in a worker)."""

import html
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A colour of a picture and the variable of the page that replaces it: light, dark and print share one picture.
INK, MUTED, FAINT, PAPER = "#010203", "#020304", "#030405", "#040506"
GOOD, BAD = "#050607", "#060708"
SERIES = ("#110101", "#110202", "#110303", "#110404", "#110505", "#110606")
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    FAINT: "--line",
    PAPER: "--paper",
    GOOD: "--good",
    BAD: "--bad",
    **{colour: f"--series-{number}" for number, colour in enumerate(SERIES, 1)},
}
# Colour is never all that tells two series apart.
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")
# As wide as a phone, so that letters have their size there; wide screens show several side by side.
WIDTH = 4.3
_TEXT = 8.5
_SETTINGS: dict[str, object] = {
    "svg.fonttype": "none",
    "font.family": ["sans-serif"],
    "font.size": _TEXT,
    "text.parse_math": False,  # names are the user's: a dollar in them is a dollar
    "axes.formatter.use_mathtext": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": _TEXT + 0.5,
    "axes.titleweight": "bold",
    "axes.titlecolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "xtick.labelsize": _TEXT - 0.5,
    "ytick.labelsize": _TEXT - 0.5,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "figure.facecolor": "none",
    "lines.linewidth": 1.4,
    "lines.markersize": 5.5,
}


@contextmanager
def drawing(height: float) -> "Iterator[Figure]":
    """An empty figure as wide as every other; what is drawn on it must be drawn inside."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_SETTINGS):  # type: ignore[arg-type]
        yield Figure(figsize=(WIDTH, height))


def frame(figure: "Figure", inches: tuple[float, float, float, float], rows: int = 1) -> "list[Axes]":
    """Axes one below the other, with so many inches left free at the left, right, top and bottom of each."""
    left, right, top, bottom = inches
    width, height = figure.get_size_inches()
    each = height / rows
    return [
        figure.add_axes(
            (
                left / width,
                (height - (row + 1) * each + bottom) / height,
                (width - left - right) / width,
                (each - top - bottom) / height,
            )
        )
        for row in range(rows)
    ]


def text_inches(texts: Iterable[str], size: float = _TEXT) -> float:
    """Room for the longest of some texts: a browser's letters are not those that were measured here."""
    return max((len(text) for text in texts), default=0) * size * 0.58 / 72


def save(figure: "Figure", path: Path, title: str) -> None:
    """Write the figure as a piece of an HTML page: no header, no addresses, no ids of others, its title told aloud."""
    import matplotlib as mpl

    stream = io.StringIO()
    with mpl.rc_context({**_SETTINGS, "svg.hashsalt": path.name}):  # type: ignore[dict-item]
        figure.savefig(stream, format="svg", metadata={"Date": None})
    path.write_text(inline(stream.getvalue(), title), encoding="utf-8")


def inline(svg: str, title: str) -> str:
    """Make an SVG document a piece of a page."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    body = re.sub(r'<g id="[^"]*"', "<g", body)
    body = body.replace("xlink:href", "href")
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body).groups()  # type: ignore[union-attr]
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{html.escape(title)}">'
    body = head + body[body.index(">") + 1 :]
    body = re.sub(r"font: ([\w. ]*?)([\d.]+px) [^;\"]*", r"font: \1\2 var(--font)", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, f"var({variable})")
    return re.sub(r">\s+<", "><", body)


def spread(wanted: list[float], gap: float) -> list[float]:
    """Move positions apart until none is nearer than `gap` to its neighbour, keeping their order."""
    order = sorted(range(len(wanted)), key=wanted.__getitem__)
    placed = [wanted[index] for index in order]
    for _ in range(100):
        moved = False
        for low in range(len(placed) - 1):
            short = gap - (placed[low + 1] - placed[low])
            if short > gap * 1e-3:
                placed[low] -= short / 2
                placed[low + 1] += short / 2
                moved = True
        if not moved:
            break
    found = [0.0] * len(wanted)
    for place, index in zip(placed, order, strict=True):
        found[index] = place
    return found


def figure_text(value: float) -> str:
    """Three digits, as people write them."""
    if value == 0:
        return "0"
    if abs(value) >= 1e6 or abs(value) < 1e-3:  # noqa: PLR2004 - where digits become hard to count
        return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"  # noqa: PLR2004


def plain_ticks(axes: "Axes", axis: str) -> None:
    """Label a logarithmic axis at 1, 2 and 5 where it is short, by numbers as people write them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    which = axes.xaxis if axis == "x" else axes.yaxis
    low, high = axes.get_xlim() if axis == "x" else axes.get_ylim()
    subs = (1.0, 2.0, 5.0) if high / low < 200 else (1.0,)  # noqa: PLR2004 - two decades and a bit
    which.set_major_locator(LogLocator(subs=subs))
    which.set_minor_locator(NullLocator())
    which.set_major_formatter(FuncFormatter(lambda value, _: figure_text(value)))


def name_ends(axes: "Axes", ends: Mapping[str, tuple[float, float, str]]) -> None:
    """Name each line, of a colour, beside where it ends, one name below the other."""
    wanted = [float(axes.transData.transform((x, y))[1]) for x, y, _ in ends.values()]
    for place, was, (name, (x, y, colour)) in zip(spread(wanted, 12.5), wanted, ends.items(), strict=True):
        axes.annotate(
            name,
            (x, y),
            xytext=(8, (place - was) * 72 / axes.figure.dpi),
            textcoords="offset points",
            va="center_baseline",
            fontsize=7.5,
            color=INK if colour != MUTED else MUTED,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "relpos": (0, 0.5), "color": colour, "lw": 0.6, "shrinkA": 0, "shrinkB": 3},
        )
