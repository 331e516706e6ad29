"""The notes of a run for a reader: what is worth least trust first, and what is said of several told once."""

import re
from collections.abc import Iterable

from flows.evidence import Evidence

_NAMED = re.compile(r"(?P<name>\S+): (?P<text>.+)", re.DOTALL)


def cautions(found: Evidence, missing: Iterable[str]) -> list[str]:
    """Sentences; noise first."""
    notes = [*found.record.notes, *missing]
    noisy = [note for note in notes if " measurements were noisy " in note]
    return [*noisy, *_merged((note for note in notes if note not in noisy), _names(found))]


def _names(found: Evidence) -> set[str]:
    return {name for engine in found.results for name in (engine.id, engine.precision)}


def _merged(notes: Iterable[str], names: set[str]) -> list[str]:
    """Notes that say the same of several results, where the first of them stood."""
    said: dict[str, list[str]] = {}
    for note in notes:
        match = _NAMED.fullmatch(note)
        known = match is not None and match["name"] in names
        said.setdefault(match["text"] if match and known else note, []).extend(
            [match["name"]] if match and known else []
        )
    return [f"{', '.join(dict.fromkeys(who))}: {text}" if who else text for text, who in said.items()]
