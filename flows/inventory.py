"""What a store in a folder holds of one pipeline; for a remote store see remote_inventory.py."""

import os
from collections.abc import Hashable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path

from flows.records import read_record
from tasks.core.errors import StoreError
from tasks.core.outcome import RunRecord
from tasks.core.promotions import promotions_in
from tasks.core.store import NOT_STEPS, Store, read_report


class FolderInventory:
    """Looks while nothing is at work on the pipeline."""

    def __init__(self, store: Store, pipeline: str) -> None:
        self._store = store
        self._root = store.root
        self._pipeline = pipeline
        self._records: dict[str, RunRecord | None] = {}
        self._lineage: dict[str, tuple[str, ...]] = {}

    @cached_property
    def _runs(self) -> list[str]:
        return sorted(_folders(self._root / self._pipeline / "runs"), reverse=True)

    def runs(self) -> list[str]:
        """Ids of all runs, newest first."""
        return self._runs

    def unfinished(self) -> set[str]:
        """Those that left no record: nothing is at work, so they were killed."""
        runs = self._root / self._pipeline / "runs"
        return {run for run in self._runs if not (runs / run / "run.json").is_file()}

    def record(self, run: str) -> RunRecord | None:
        """The record of a run; None for one that this version cannot read."""
        if run not in self._records:
            self._records[run] = read_record(self._root / self._pipeline / "runs" / run)
        return self._records[run]

    def promoted(self) -> list[str]:
        """Folders of the artifacts that were ever put in force."""
        records = promotions_in(self._store, self._pipeline).records()
        return [record.artifact for record in records if record.artifact]

    def lineage(self, folders: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """What each of the artifacts was made from."""
        return {folder: self._made_from(folder) for folder in folders}

    def artifacts(self) -> list[str]:
        """Folders of all artifacts."""
        base = self._root / self._pipeline
        steps = sorted(step for step in _folders(base) if step not in NOT_STEPS)
        return [
            f"{self._pipeline}/{step}/{key}"
            for step in steps
            for key in sorted(_folders(base / step))
            if key != "index"
        ]

    def contents(self, folder: str) -> Mapping[Hashable, int]:
        """Bytes of each file in a folder, by its inode: a hard link takes no space of its own."""
        return {(found.st_dev, found.st_ino): found.st_size for found in stats(self._root / folder)}

    def _made_from(self, folder: str) -> tuple[str, ...]:
        if folder not in self._lineage:
            try:
                self._lineage[folder] = read_report(self._root / folder).recipe.lineage
            except StoreError:
                self._lineage[folder] = ()  # an artifact that is gone or damaged leads nowhere
        return self._lineage[folder]


def stats(folder: Path) -> Iterator[os.stat_result]:
    """The stat of every file below a folder."""
    waiting = [folder]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # gone, or never there
            continue
        waiting += [Path(entry) for entry in entries if entry.is_dir(follow_symlinks=False)]
        yield from (entry.stat(follow_symlinks=False) for entry in entries if entry.is_file(follow_symlinks=False))


def _folders(folder: Path) -> list[str]:
    """Names of the folders in a folder; no links, whose content may be anybody's."""
    try:
        entries = [] if folder.is_symlink() else list(os.scandir(folder))
    except OSError:
        return []
    return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False) and not entry.name.startswith(".")]
