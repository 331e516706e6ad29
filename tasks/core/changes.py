"""Why a step has no artifact yet: what its recipe says now, against what it said when the step last made one."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import JsonValue

from tasks.core.errors import StoreError
from tasks.core.report import Recipe, Report
from tasks.core.store import read_report

NEVER = "never made"


def explain(steps: Path, recipe: Recipe) -> str:
    """One plain sentence: the first thing that changed since the newest artifact of the same step and subject."""
    before = _newest(steps, recipe.subject)
    return NEVER if before is None else _change(before.recipe, recipe) or "its artifact is gone"


def _newest(steps: Path, subject: str) -> Report | None:
    """The artifact that was last written: reading all reports of a thousand runs would take seconds."""
    paths = sorted(steps.glob("[!.]*/report.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    reports = (report for path in paths if (report := _read(path.parent)))
    return next((report for report in reports if report.subject == subject), None)


def _read(folder: Path) -> Report | None:
    try:
        return read_report(folder)
    except StoreError:  # damaged: it tells nothing, and is made again when it is asked for
        return None


def _change(old: Recipe, new: Recipe) -> str | None:
    """What the user can have done comes first; changed inputs are what an earlier step passed on."""
    return (
        _sources(old.sources, new.sources)
        or _values(old.params, new.params)
        or _values(old.tools, new.tools)
        or _values(old.host, new.host)
        or _inputs(old.inputs, new.inputs)
        or (f"step {new.step} of trtflow is version {new.version} now" if old.version != new.version else None)
    )


def _sources(old: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    added, gone = sorted(new.keys() - old.keys()), sorted(old.keys() - new.keys())
    if added and gone:
        return f"{added[0]} is used in place of {gone[0]}"
    if added or gone:
        return f"{added[0]} is new" if added else f"{gone[0]} is no longer used"
    return next((f"{name} changed" for name in sorted(new) if new[name] != old[name]), None)


def _values(old: Mapping[str, JsonValue], new: Mapping[str, JsonValue], place: str = "") -> str | None:
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name), new.get(name)
        if before == now:
            continue
        if isinstance(before, dict) and isinstance(now, dict):
            return _values(before, now, f"{place}{name}.")
        return f"{place}{name} {_text(before)} is now {_text(now)}"
    return None


def _text(value: JsonValue) -> str:
    return "absent" if value is None else f"{value}"


def _inputs(old: Mapping[str, str], new: Mapping[str, str]) -> str | None:
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return f"other inputs: {', '.join(names)}" if names else None
