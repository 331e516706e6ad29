"""`trtflow gc`: remove what no recent run and no promotion needs."""

import json
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path

from flows.options import Options, chosen, store_root
from flows.records import read_record, run_folders
from flows.terminal import size_text
from tasks.core.errors import StoreError
from tasks.core.files import remove_tree
from tasks.core.promotions import Promotions
from tasks.core.store import NOT_STEPS, Store, read_report
from tasks.core.yaml_source import load_config


def command(parsed: Namespace, options: Options) -> int:
    """Keep the artifacts of the newest runs, of all promotions, and all that those were made from."""
    config = load_config(options.file)
    root = store_root(options, config)
    store = Store(root, options.project)
    gone: dict[str, int] = {}
    for name in chosen(config, parsed.names):
        gone |= {str(path.relative_to(root)): _bytes(path) for path in _unneeded(root, name, parsed.keep_runs)}
        if not parsed.dry_run:
            store.sweep(name)
    if not parsed.dry_run:
        for folder in gone:
            remove_tree(root / folder)
    if options.json:
        print(json.dumps({"removed": gone, "dry_run": parsed.dry_run}))
        return 0
    for folder in gone:
        print(folder)
    verb = "would free" if parsed.dry_run else "freed"
    print(f"{verb} {size_text(sum(gone.values()))} in {len(gone)} folders")
    return 0


def _unneeded(root: Path, pipeline: str, keep_runs: int) -> list[Path]:
    folders = run_folders(root, pipeline)
    kept, old = folders[:keep_runs], folders[keep_runs:]
    records = [record for folder in kept if (record := read_record(folder))]
    promoted = [record.artifact for record in Promotions(root, pipeline).records() if record.artifact]
    needed = _with_lineage(root, [*(name for record in records for name in record.artifacts), *promoted])
    return [*(path for path in _artifacts(root / pipeline) if str(path.relative_to(root)) not in needed), *old]


def _artifacts(pipeline: Path) -> Iterable[Path]:
    steps = (path for path in sorted(pipeline.glob("[!.]*/")) if path.is_dir() and path.name not in NOT_STEPS)
    return (path for step in steps for path in sorted(step.glob("[!.]*/")) if path.is_dir() and path.name != "index")


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


def _bytes(folder: Path) -> int:
    """Space that removing the folder frees: a file with another name elsewhere frees none."""
    files = (path.stat() for path in folder.rglob("*") if path.is_file())
    return sum(status.st_size for status in files if status.st_nlink == 1)
