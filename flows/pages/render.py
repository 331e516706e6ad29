"""From a template and what it shows to the text of a page."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

# An option stands alone or after a bracket; a name between backticks holds no space.
_TYPED = re.compile(r"`([^`\s]+)`|(?<![\w-])(--[a-z][a-z-]*)")
TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, shown: Mapping[str, object]) -> str:
    """Fill in a template; what is not marked as safe by the template is escaped."""
    return _environment().get_template(template).render(shown)


@functools.cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from flows import story
    from flows.blame import figure
    from flows.pages.bytecode import CompiledTemplates
    from flows.table import size_text

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        bytecode_cache=CompiledTemplates(TEMPLATES),
    )
    environment.filters.update(
        figure=figure,
        times=story.times,
        point=story.point_text,
        size=size_text,
        amount=amount,
        moment=moment,
        told=told,
    )
    return environment


def amount(number: float) -> str:
    """A large count for people: 2.76 G."""
    for unit, letter in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= unit:
            return f"{number / unit:.3g}{letter}"
    return f"{number:g}"


def moment(text: str) -> str:
    """A time of a record, to the second."""
    return text[:19].replace("T", " ") + " UTC"


def told(text: str) -> "Markup":
    """A sentence with what is to be typed set as code: `so`, and options."""
    from markupsafe import Markup, escape

    return Markup(_TYPED.sub(r"<code>\1\2</code>", str(escape(text))))  # noqa: S704 - escaped just before
