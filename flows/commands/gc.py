"""`trtflow gc`: remove what no recent run and no promotion needs."""

import contextlib
import json
import sys
from argparse import Namespace
from collections.abc import Iterator
from dataclasses import dataclass

from flows.collect import Going, clear_folder, clear_remote, collect_folder, collect_remote
from flows.options import Options, chosen, open_store
from flows.retention import Rules
from flows.table import size_text
from tasks.core.config import Config
from tasks.core.errors import StoreError
from tasks.core.store import Store
from tasks.core.yaml_source import load_config

_NOTHING = Going((), 0)


@dataclass(frozen=True)
class _Sum:
    """What goes from a remote store, and from each pipeline in the folder here: the store itself, or its cache."""

    remote: Going | None
    here: dict[str, Going]
    busy: tuple[str, ...]

    @property
    def store(self) -> Going:
        return self._folder if self.remote is None else self.remote

    @property
    def cache(self) -> Going:
        return _NOTHING if self.remote is None else self._folder

    @property
    def _folder(self) -> Going:
        found = self.here.values()
        return Going(
            tuple(folder for going in found for folder in going.folders),
            sum(going.freed_bytes for going in found),
            tuple(note for going in found for note in going.notes),
        )


def command(parsed: Namespace, options: Options) -> int:
    """Say what would go; remove it unless that is all that was asked for, or somebody says no."""
    config = load_config(options.file)
    store = open_store(options, config)
    rules = rules_of(config, parsed)
    names = list(chosen(config, parsed.names, options))
    found = _collect(store, names, rules, None)
    if not options.json:
        _show(found, store)
    removes = not parsed.dry_run and (parsed.yes or options.json or _agreed(found))
    if removes:
        found = _collect(store, names, rules, found)
    _tell(found, options, store, removed=removes)
    return 0


def rules_of(config: Config, parsed: Namespace) -> Rules:
    """What to keep: as the command line says, all of it by the YAML if that says nothing."""
    given = (parsed.keep_runs, parsed.keep_days, parsed.max_size)
    if config.keep is not None and given == (None, None, None):
        return Rules.of(config.keep)
    return Rules(parsed.keep_runs or 10, parsed.keep_days, parsed.max_size)


def collect_all(store: Store, names: list[str], rules: Rules) -> str:
    """Remove what may go, without asking; returns what that was, in a sentence."""
    found = _collect(store, names, rules, _collect(store, names, rules, None))
    return _sentence("freed", found, store)


def _collect(store: Store, names: list[str], rules: Rules, shown: _Sum | None) -> _Sum:
    """Look at what may go and, of what was shown already, remove what still may."""
    with contextlib.ExitStack() as held:
        free = [name for name in names if held.enter_context(_unused(store, name))]
        remote = _collect_remote(store, dict.fromkeys(free, rules), shown) if store.shared else None
        here = {}
        for name in free:
            if (store.root / name).is_dir():
                before = shown.here.get(name, _NOTHING) if shown else None
                here[name] = clear_folder(store, name, rules, before) if before else collect_folder(store, name, rules)
    return _Sum(remote, here, tuple(name for name in names if name not in free))


def _collect_remote(store: Store, rules: dict[str, Rules], shown: _Sum | None) -> Going | None:
    if store.shared is None:
        return None
    if shown is None or shown.remote is None:
        return collect_remote(store, store.shared, rules)
    return clear_remote(store, store.shared, rules, frozenset(shown.remote.folders))


@contextlib.contextmanager
def _unused(store: Store, name: str) -> Iterator[bool]:
    if (store.root / name).is_symlink():
        place = store.root / name
        raise StoreError(f"{place} is a link", "nothing behind a link is removed: give its place with --store")
    if not (store.root / name).is_dir():
        yield True
        return
    with store.unused(name) as unused:
        yield unused


def _agreed(found: _Sum) -> bool:
    """Ask on a terminal; a script has said what it wants by calling."""
    if not (found.store.folders or found.cache.folders) or not sys.stdin.isatty():
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
