"""Clearing up what killed runs left in a store."""

import os
import shutil
from pathlib import Path

from tasks.core.files import remove_abandoned
from tasks.core.locks import try_file_lock


def sweep(root: Path, pipeline: str, *others: Path) -> None:
    """Remove hidden folders and files of a pipeline, and of `others`, whose lock nobody holds."""
    for folder in (root / ".sources", *others, root / pipeline, *_folders(root / pipeline)):
        for path in _hidden(folder):
            if path.suffix == ".partial" and path.is_file():
                remove_abandoned(path)
            else:
                _sweep_locked(path)


def _folders(pipeline: Path) -> list[Path]:
    """The folders in which a pipeline's files are written: steps, runs, promotions, indexes and artifacts; no links."""
    steps = [path for path in pipeline.glob("*/") if path.is_dir() and not path.is_symlink()]
    inner = (path for step in steps for path in step.glob("*/") if not path.name.startswith("."))
    return [*steps, *(path for path in inner if not path.is_symlink())]


def _hidden(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - twice as fast as iterdir, on every run over every artifact
    except OSError:
        return []
    return [folder / name for name in names if name.startswith(".") and name.endswith((".partial", ".lock"))]


def _sweep_locked(path: Path) -> None:
    """Remove an unfinished folder, and its lock, unless its maker lives."""
    release = try_file_lock(path.with_suffix(".lock"))
    if release is not None:
        remove_whatever(path.with_suffix(".partial"))
        release()


def remove_whatever(path: Path) -> None:
    """Remove a file or a folder that nobody reads, or nothing."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
