"""`trtflow gc`: remove what no recent run and no promotion needs."""

import contextlib
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass

from flows.collect import Going, clear_remote, collect_folder, collect_remote
from flows.options import Options, chosen, open_store
from flows.retention import Rules
from flows.table import size_text
from tasks.core.store import Store
from tasks.core.yaml_source import load_config

_NOTHING = Going((), 0)


@dataclass(frozen=True)
class _Sum:
    """What goes from the store and, where that is remote, from the cache here."""

    store: Going
    cache: Going
    busy: tuple[str, ...]

    @property
    def folders(self) -> frozenset[str]:
        return frozenset((*self.store.folders, *self.cache.folders))


def command(parsed: Namespace, options: Options) -> int:
    """Say what would go; remove it unless that is all that was asked for, or somebody says no."""
    config = load_config(options.file)
    store = open_store(options, config)
    rules = Rules(parsed.keep_runs, parsed.keep_days, parsed.max_size)
    names = list(chosen(config, parsed.names, options))
    found = _collect(store, names, rules, None)
    if not options.json:
        _show(found, store)
    removes = not parsed.dry_run and (parsed.yes or options.json or _agreed(found))
    if removes:
        found = _collect(store, names, rules, found.folders)
    _tell(found, options, store, removed=removes)
    return 0


def _collect(store: Store, names: list[str], rules: Rules, only: frozenset[str] | None) -> _Sum:
    """Look at what may go and, with `only`, remove what of that still may."""
    with contextlib.ExitStack() as held:
        free: list[str] = []
        busy: list[str] = []
        for name in names:
            (free if held.enter_context(_unused(store, name)) else busy).append(name)
        remote = _NOTHING
        if store.shared is not None:
            by_name = dict.fromkeys(free, rules)
            shared = store.shared
            remote = (
                collect_remote(store, shared, by_name) if only is None else clear_remote(store, shared, by_name, only)
            )
        here = [collect_folder(store, name, rules, only) for name in free if (store.root / name).is_dir()]
    local = Going(
        tuple(folder for going in here for folder in going.folders),
        sum(going.freed_bytes for going in here),
        tuple(note for going in here for note in going.notes),
    )
    return _Sum(remote, local, tuple(busy)) if store.shared else _Sum(local, _NOTHING, tuple(busy))


@contextlib.contextmanager
def _unused(store: Store, name: str) -> Iterator[bool]:
    if not (store.root / name).is_dir():
        yield True
        return
    with store.unused(name) as unused:
        yield unused


def _agreed(found: _Sum) -> bool:
    """Ask on a terminal; a script has said what it wants by calling."""
    if not found.folders or not sys.stdin.isatty():
        return True
    return input("remove all this? [y/N] ").strip().lower() in ("y", "yes")


def _show(found: _Sum, store: Store) -> None:
    for folder in found.store.folders:
        print(folder)
    for name in found.busy:
        print(f"{name}: a run is at work on it, so nothing of it was looked at", file=sys.stderr)
    for note in (*found.store.notes, *found.cache.notes):
        print(f"note: {note}", file=sys.stderr)
    print(_sentence("would free", found, store))


def _sentence(verb: str, found: _Sum, store: Store) -> str:
    text = f"{verb} {size_text(found.store.freed_bytes)} in {len(found.store.folders)} folders"
    if store.shared is None:
        return text
    cache = f"{size_text(found.cache.freed_bytes)} in {len(found.cache.folders)} folders"
    return f"{text} of {store.place}, and {cache} of its cache at {store.root}"


def _tell(found: _Sum, options: Options, store: Store, *, removed: bool) -> None:
    if not options.json:
        if removed:
            print(_sentence("freed", found, store))
        return
    told: dict[str, object] = {
        "removed": found.store.folders,
        "freed_bytes": found.store.freed_bytes,
        "in_use": found.busy,
        "dry_run": not removed,
    }
    if store.shared is not None:
        told["cache"] = {"removed": found.cache.folders, "freed_bytes": found.cache.freed_bytes}
    print(json.dumps(told))
