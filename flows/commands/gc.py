"""`trtflow gc`: remove what no recent run and no promotion needs."""

import json
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from flows.authority import authority_of
from flows.options import Options, chosen, store_root
from flows.records import read_record
from flows.table import size_text
from tasks.core.errors import StoreError
from tasks.core.files import remove_tree, store_errors
from tasks.core.observations import read_index
from tasks.core.promotions import Promotions
from tasks.core.report import KEY_IN_FOLDER_NAME
from tasks.core.store import NOT_STEPS, Store, read_report
from tasks.core.yaml_source import load_config


def command(parsed: Namespace, options: Options) -> int:
    """Keep the artifacts of the newest runs, of all promotions, and all that those were made from."""
    config = load_config(options.file)
    root = store_root(options, config)
    store = Store(root, options.project)
    authority = authority_of(config, options)
    gone: list[str] = []
    busy: list[str] = []
    freed = 0
    for name in chosen(config, parsed.names, options):
        if not (root / name).is_dir():
            continue
        if (root / name).is_symlink():
            raise StoreError(
                f"{root / name} is a link", "nothing behind a link is removed: give its place with --store"
            )
        with store.unused(name) as unused:
            if not unused:
                busy.append(name)
                continue
            promotions = Promotions(root, name, authority=authority)
            folders = list(_unneeded(promotions, parsed.keep_runs))
            gone += [str(folder.relative_to(root)) for folder in folders]
            freed += _bytes(folders)
            if not parsed.dry_run:
                _remove(store, name, folders)
    _tell({"removed": gone, "freed_bytes": freed, "in_use": busy, "dry_run": parsed.dry_run}, options)
    return 0


def _tell(told: dict[str, object], options: Options) -> None:
    if options.json:
        print(json.dumps(told))
        return
    match told:
        case {"removed": list(gone), "freed_bytes": int(freed), "in_use": list(busy), "dry_run": dry_run}:
            for folder in gone:
                print(folder)
            for name in busy:
                print(f"{name}: a run is at work on it, so nothing of it was looked at", file=sys.stderr)
            print(f"{'would free' if dry_run else 'freed'} {size_text(freed)} in {len(gone)} folders")


def _remove(store: Store, pipeline: str, folders: Iterable[Path]) -> None:
    with store_errors(store.root):
        store.sweep(pipeline)
        for folder in folders:
            remove_tree(folder)
        for index in (store.root / pipeline).glob("*/index/*.jsonl"):
            if not any((index.parents[1] / entry.key[:KEY_IN_FOLDER_NAME]).is_dir() for entry in read_index(index)):
                index.unlink()


def _unneeded(promotions: Promotions, keep_runs: int) -> Iterator[Path]:
    """Folders to remove: artifacts that nothing to be kept needs, old runs, and what killed runs left of theirs."""
    root, pipeline = promotions.root, promotions.pipeline
    runs = sorted(_real_folders(root / pipeline / "runs"), reverse=True)
    records = {run: record for run in runs if (record := read_record(run))}
    kept = list(records)[:keep_runs]
    promoted = [record.artifact for record in promotions.records() if record.artifact]
    needed = _with_lineage(root, [*(name for run in kept for name in records[run].artifacts), *promoted])
    yield from (path for path in _artifacts(root / pipeline) if str(path.relative_to(root)) not in needed)
    # A record that this version cannot read stays while it is newer than what is kept.
    oldest = kept[-1] if len(kept) == keep_runs else None
    yield from (run for run in runs if not (run / "run.json").is_file() or (oldest is not None and run < oldest))


def _artifacts(pipeline: Path) -> Iterable[Path]:
    steps = (path for path in _real_folders(pipeline) if path.name not in NOT_STEPS)
    return (path for step in steps for path in _real_folders(step) if path.name != "index")


def _real_folders(folder: Path) -> list[Path]:
    """Folders in a folder; no links, whose content may be anybody's."""
    if folder.is_symlink():
        return []
    return [path for path in sorted(folder.glob("[!.]*/")) if path.is_dir() and not path.is_symlink()]


def _with_lineage(root: Path, folders: list[str]) -> set[str]:
    """The folders and, step by step, all that they were made from."""
    needed: set[str] = set()
    waiting = list(folders)
    while waiting:
        folder = waiting.pop()
        if folder in needed:
            continue
        needed.add(folder)
        try:
            waiting += read_report(root / folder).recipe.lineage
        except StoreError:
            continue  # an artifact that is gone or damaged leads nowhere
    return needed


def _bytes(folders: Iterable[Path]) -> int:
    """Space that removing the folders frees: none for a file that has another name in a folder that stays."""
    status = [path.stat() for folder in folders for path in folder.rglob("*") if path.is_file()]
    names = Counter((found.st_dev, found.st_ino) for found in status)
    sizes = {(s.st_dev, s.st_ino): s.st_size for s in status if names[s.st_dev, s.st_ino] == s.st_nlink}
    return sum(sizes.values())
