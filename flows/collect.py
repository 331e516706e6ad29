"""Removes from a store what its rules do not keep; each collector first says what would go."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from flows.inventory import FolderInventory, stats
from flows.remote_inventory import GRACE, RemoteContents, RemoteInventory
from flows.retention import Decision, Rules, decide
from tasks.core.files import remove_trees, store_errors
from tasks.core.observations import read_index
from tasks.core.promotions import promotions_in
from tasks.core.report import KEY_IN_FOLDER_NAME
from tasks.core.shared import Shared, drop_unfinished
from tasks.core.store import Store


@dataclass(frozen=True)
class Going:
    """What goes: folders relative to the store, what that frees, and what is worth saying."""

    folders: tuple[str, ...]
    freed_bytes: int
    notes: tuple[str, ...] = ()


def collect_folder(store: Store, pipeline: str, rules: Rules) -> Going:
    """Look at a pipeline of a store in a folder."""
    decision = decide(pipeline, FolderInventory(store, pipeline), rules)
    folders = (*decision.artifacts, *decision.runs)
    return Going(folders, _bytes(store.root / folder for folder in folders), _notes(pipeline, decision))


def clear_folder(store: Store, pipeline: str, rules: Rules, shown: Going) -> Going:
    """Remove those folders of a pipeline that were shown and still may go."""
    decision = decide(pipeline, FolderInventory(store, pipeline), rules)
    seen = frozenset(shown.folders)
    folders = tuple(folder for folder in (*decision.artifacts, *decision.runs) if folder in seen)
    freed = shown.freed_bytes if folders == shown.folders else _bytes(store.root / folder for folder in folders)
    with store_errors(store.root):
        _remove(store, pipeline, folders)
    return Going(folders, freed, shown.notes)


def collect_remote(store: Store, shared: Shared, rules: dict[str, Rules], grace: timedelta = GRACE) -> Going:
    """Look at the pipelines of a remote store."""
    return _RemoteCollection(store, shared, rules, grace).going()


def clear_remote(
    store: Store, shared: Shared, rules: dict[str, Rules], only: frozenset[str], grace: timedelta = GRACE
) -> Going:
    """Remove from the remote store those folders that still may go, and the blobs that nothing names any more.

    Machines at work on it see that it changed, and put back what they use: see generation.py.
    """
    before = shared.generation.begin()
    removed = False
    try:
        collection = _RemoteCollection(store, shared, rules, grace, only)
        going = collection.going()
        removed = bool(collection.markers or collection.rest)
        shared.remote.remove(collection.markers)  # first: what has no report is not there
        shared.remote.remove(collection.rest)
        return going
    finally:
        shared.generation.end(before, removed=removed)


class _RemoteCollection:
    """One look at a remote store."""

    def __init__(
        self,
        store: Store,
        shared: Shared,
        rules: dict[str, Rules],
        grace: timedelta,
        only: frozenset[str] | None = None,
    ) -> None:
        self._contents = RemoteContents(shared.remote, grace)
        decisions = {
            name: decide(name, RemoteInventory(self._contents, promotions_in(store, name)), rule)
            for name, rule in rules.items()
        }
        self.folders = [f for d in decisions.values() for f in (*d.artifacts, *d.runs) if only is None or f in only]
        artifacts = frozenset(f for d in decisions.values() for f in d.artifacts if only is None or f in only)
        self._notes = [note for name, decision in decisions.items() for note in _notes(name, decision)]
        self.markers = [f"{folder}/report.json" for folder in sorted(artifacts)]
        self.rest = [name for folder in self.folders for name in self._contents.below(folder)]
        self.rest += self._contents.entries(artifacts) + self._contents.abandoned() + self._blobs(artifacts)

    def _blobs(self, gone: frozenset[str]) -> list[str]:
        strange = self._contents.unreadable(gone)
        if strange:
            self._notes.append(f"{strange[0]} cannot be read by this version, so no blob was removed")
            return []
        return self._contents.unused_blobs(gone)

    def going(self) -> Going:
        files = self._contents.files
        freed = sum(files[name].bytes for name in {*self.markers, *self.rest} if name in files)
        return Going(tuple(self.folders), freed, tuple(self._notes))


def _notes(pipeline: str, decision: Decision) -> tuple[str, ...]:
    return (f"{pipeline}: {decision.note}",) if decision.note else ()


def _remove(store: Store, pipeline: str, folders: Iterable[str]) -> None:
    store.sweep(pipeline)
    remove_trees(store.root / folder for folder in folders)
    drop_unfinished(store.root / pipeline)
    for index in (store.root / pipeline).glob("*/index/*.jsonl"):
        if not any((index.parents[1] / entry.key[:KEY_IN_FOLDER_NAME]).is_dir() for entry in read_index(index)):
            index.unlink()


def _bytes(folders: Iterable[Path]) -> int:
    """Space that removing the folders frees: none for a file that has another name in a folder that stays."""
    status = [found for folder in folders for found in stats(folder)]
    names = Counter((found.st_dev, found.st_ino) for found in status)
    sizes = {(s.st_dev, s.st_ino): s.st_size for s in status if names[s.st_dev, s.st_ino] == s.st_nlink}
    return sum(sizes.values())
