"""A chart of the page as a picture of its own, which shows offline wherever a data URI does."""

import base64
import functools
import re
from pathlib import Path

_STYLE = Path(__file__).parent / "templates" / "style.css"
# The chart's own unit is a point; letters come out at the size of the page's.
_SCALE = 1.5


def data_uri(svg: str) -> str:
    """The piece of a page that a chart is, as a document with the page's light colours on paper."""
    width, height = (float(side) for side in re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups())  # type: ignore[union-attr]
    size = f'xmlns="http://www.w3.org/2000/svg" width="{width * _SCALE:.0f}" height="{height * _SCALE:.0f}"'
    head, body = svg.split(">", 1)
    head = head.replace("<svg", f"<svg {size}", 1)
    style = f"<style>:root{{{_colours()}}}</style><rect width='100%' height='100%' style='fill:var(--paper)'/>"
    document = f"{head}>{style}{body}"
    return "data:image/svg+xml;base64," + base64.b64encode(document.encode()).decode()


@functools.cache
def _colours() -> str:
    """The variables of the page's style sheet, as they are by day: a picture cannot know where it is shown."""
    found = re.search(r":root \{(.*?)\}", _STYLE.read_text(encoding="utf-8"), re.DOTALL)
    variables = re.findall(r"(--[\w-]+): ([^;]+);", found[1]) if found else []
    return ";".join(f"{name}:{value}" for name, value in variables).replace('"', "'")
