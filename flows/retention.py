"""Which runs and artifacts of a pipeline stay: by count, by age, by size, and never what is promoted."""

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from tasks.core.config import KeepConfig
from tasks.core.outcome import RunRecord
from tasks.core.source_names import CHECKPOINTS

_TIME = "%Y%m%dT%H%M%S"


@dataclass(frozen=True)
class Rules:
    """A run stays if one of the first two says so, unless it is too much for the third."""

    keep_runs: int
    keep_days: float | None = None
    max_bytes: int | None = None

    @classmethod
    def of(cls, keep: KeepConfig) -> "Rules":
        """Those of the YAML."""
        return cls(keep.runs, keep.days, keep.max_bytes)


class Inventory(Protocol):
    """What a store holds of one pipeline."""

    def runs(self) -> list[str]:
        """Ids of all runs, newest first."""

    def unfinished(self) -> set[str]:
        """Those that left no record, and whose process is gone."""

    def record(self, run: str) -> RunRecord | None:
        """The record of a run; None for one that this version cannot read."""

    def promoted(self) -> list[str]:
        """Folders of the artifacts that were ever put in force."""

    def lineage(self, folders: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """What each of the artifacts was made from; one that is gone or damaged leads nowhere."""

    def artifacts(self) -> list[str]:
        """Folders of all artifacts."""

    def contents(self, folder: str) -> Mapping[Hashable, int]:
        """Bytes of each content that lies in a folder: what lies in two of them is stored once."""


@dataclass(frozen=True)
class Decision:
    """What goes, relative to the store; `note` says what could not be done."""

    artifacts: tuple[str, ...]
    runs: tuple[str, ...]
    needed: frozenset[str]
    note: str = ""


def decide(pipeline: str, inventory: Inventory, rules: Rules) -> Decision:
    """Apply the rules."""
    runs = inventory.runs()
    kept, cut = _recent(runs, inventory, rules)
    needed = with_lineage(inventory, inventory.promoted())
    note = ""
    if rules.max_bytes is not None:
        fitting, note = _fitting(kept, set(needed), (pipeline, inventory, rules.max_bytes))
        cut = runs.index(fitting[-1]) + 1 if len(fitting) < len(kept) else cut
        kept = fitting
    for run in kept:
        needed |= with_lineage(inventory, _used(inventory, run), needed)
    unfinished = inventory.unfinished()
    gone = [run for index, run in enumerate(runs) if run in unfinished or index >= cut]
    artifacts = [folder for folder in inventory.artifacts() if folder not in needed]
    return Decision(tuple(artifacts), tuple(f"{pipeline}/runs/{run}" for run in gone), frozenset(needed), note)


def with_lineage(inventory: Inventory, folders: Iterable[str], known: Iterable[str] = ()) -> set[str]:
    """The folders and, step by step, all that they were made from, beyond what is known already."""
    before, needed = set(known), set[str]()
    waiting = set(folders) - before
    while waiting:
        needed |= waiting
        made_from = inventory.lineage(sorted(waiting))
        waiting = {other for others in made_from.values() for other in others} - needed - before
    return needed


def _recent(runs: list[str], inventory: Inventory, rules: Rules) -> tuple[list[str], int]:
    """The newest runs with a record that can be read, newest first, and how many runs are not older than those.

    A record that this version cannot read stays while it is newer than what is kept.
    """
    kept: list[str] = []
    for index, run in enumerate(runs):
        if len(kept) >= rules.keep_runs and not _is_young(run, rules.keep_days):
            return kept, index
        if inventory.record(run) is not None:
            kept.append(run)
    return kept, len(runs)


def _is_young(run: str, days: float | None) -> bool:
    if days is None:
        return False
    try:
        begun = datetime.strptime(run.partition(".")[0], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return False
    return datetime.now(UTC) - begun < timedelta(days=days)


def _fitting(kept: list[str], needed: set[str], where: tuple[str, Inventory, int]) -> tuple[list[str], str]:
    """The newest of the runs that, with what must stay, take no more than so many bytes."""
    pipeline, inventory, limit = where
    sizes: dict[Hashable, int] = {}
    for folder in needed:
        sizes |= inventory.contents(folder)
    for index, run in enumerate(kept):
        new = with_lineage(inventory, _used(inventory, run), needed)
        for folder in (*new, f"{pipeline}/runs/{run}"):
            sizes |= inventory.contents(folder)
        needed |= new
        if sum(sizes.values()) > limit:
            if index:
                return kept[:index], ""
            return kept[:1], f"what must stay takes {sum(sizes.values()):,} bytes, more than --max-size"
    return kept, ""


def _used(inventory: Inventory, run: str) -> tuple[str, ...]:
    record = inventory.record(run)
    if record is None:
        return ()
    checkpoint = record.checkpoint
    folder = f"{record.outcome.pipeline}/{CHECKPOINTS}/{checkpoint.sha256}" if checkpoint else ""
    return (*record.artifacts, folder) if folder else record.artifacts
