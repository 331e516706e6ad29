"""`gc` by count, by age and by size: which runs stay, what is said first, and what a terminal is asked."""

import json
import os
import pty
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.cli import _size
from flows.collect import clear_remote, collect_remote
from flows.retention import Rules
from tasks.core.report import Recipe
from tasks.core.shared import open_shared
from tasks.core.store import Made, Store
from tests.commands import Call, tree
from tests.projects import ROOT, Project

ALL = Rules(keep_runs=1)


def copy_of_run(project: Project, days: float, size: int = 0) -> str:
    """A run of so many days ago, with a page of that size."""
    (newest,) = (path for path in (project.store / "tiny" / "runs").iterdir() if path.name > "2026")
    name = f"{datetime.now(UTC) - timedelta(days=days):%Y%m%dT%H%M%S}.000Z-aaaaaa"
    folder = newest.parent / name
    folder.mkdir()
    (folder / "run.json").write_text((newest / "run.json").read_text().replace(newest.name, name))
    (folder / "report.html").write_bytes(b"x" * size)
    return f"tiny/runs/{name}"


@pytest.fixture
def old(done: Project) -> tuple[Project, list[str]]:
    """A project with runs of 400, 500 and 600 days ago, each of 1 MB."""
    return done, [copy_of_run(done, days, 1_000_000) for days in (400, 500, 600)]


def test_a_run_that_one_rule_keeps_stays(old: tuple[Project, list[str]], call: Call) -> None:
    project, runs = old
    told = call(project, "gc", "tiny", "--keep-runs", "1", "--keep-days", "550", "--json").json
    assert told["removed"] == runs[2:]
    assert call(project, "gc", "tiny", "--keep-runs", "3", "--keep-days", "2", "--json").json["removed"] == []
    assert call(project, "gc", "tiny", "--keep-runs", "2", "--keep-days", "2", "--json").json["removed"] == runs[1:2]


def test_the_oldest_runs_go_until_the_rest_fits(old: tuple[Project, list[str]], call: Call) -> None:
    project, runs = old
    assert call(project, "gc", "tiny", "--max-size", "3.9MB", "--json").json["removed"] == []
    assert call(project, "gc", "tiny", "--max-size", "2.9MB", "--json").json["removed"] == runs[2:]
    assert call(project, "gc", "tiny", "--max-size", "1MB", "--json").json["removed"] == runs[:2]


def test_the_newest_run_stays_however_large_it_is(old: tuple[Project, list[str]], call: Call) -> None:
    project, runs = old
    said = call(project, "gc", "tiny", "--max-size", "1B")
    assert "tiny: what must stay takes" in said.err
    assert not any((project.store / run).exists() for run in runs)
    assert call(project, "plan", "tiny").out.startswith("tiny: 17 steps, 16 cached")


def test_what_would_go_is_said_before_it_goes(old: tuple[Project, list[str]], call: Call) -> None:
    project, runs = old
    lines = call(project, "gc", "tiny", "--keep-runs", "1").out.splitlines()
    assert lines[:3] == runs
    assert lines[3].startswith("would free 3.0 MB in 3 folders")
    assert lines[4].startswith("freed 3.0 MB in 3 folders")


@pytest.mark.parametrize(("answer", "arguments", "goes"), [("n\n", [], 0), ("y\n", [], 3), ("", ["--yes"], 3)])
def test_a_terminal_is_asked(old: tuple[Project, list[str]], answer: str, arguments: list[str], goes: int) -> None:
    project, runs = old
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer.encode())
        ended = subprocess.run(
            [sys.executable, "-m", "flows.cli", "gc", "tiny", "--keep-runs", "1", *arguments],
            cwd=project.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=theirs,
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert ("remove all this?" in ended.stdout) is not bool(arguments)
    assert sum(not (project.store / run).exists() for run in runs) == goes


@pytest.mark.parametrize(
    ("text", "size"), [("20GB", 20 * 10**9), ("1.5 TB", 15 * 10**11), ("512MiB", 512 * 2**20), ("7B", 7), ("2kb", 2000)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert _size(text) == size


@pytest.fixture
def machine(tmp_path: Path) -> Store:
    """A remote store with one artifact that no run needs."""
    shared = open_shared(f"file://{tmp_path}/remote", tmp_path / "cache")
    store = Store(shared.root, tmp_path, shared=shared)

    def make(folder: Path) -> Made:
        (folder / "model.onnx").write_bytes(b"model")
        return Made({})

    store.produce(Recipe(pipeline="tiny", step="fold", version=1), make)
    return store


def collect(store: Store) -> tuple[str, ...]:
    assert store.shared is not None
    found = collect_remote(store, store.shared, {"tiny": ALL})
    told = clear_remote(store, store.shared, {"tiny": ALL}, frozenset(found.folders))
    assert (told.folders, told.freed_bytes) == (found.folders, found.freed_bytes)
    return told.notes


def blobs(folder: Path) -> list[Path]:
    return list((folder / "remote" / "blobs").glob("*/*"))


def test_young_blobs_stay_until_a_later_gc(machine: Store, tmp_path: Path) -> None:
    collect(machine)
    assert not list((tmp_path / "remote").glob("tiny/fold/*/report.json"))
    (blob,) = blobs(tmp_path)
    os.utime(blob, (0, 0))
    collect(machine)
    assert not blobs(tmp_path)


def test_blobs_stay_while_a_report_cannot_be_read(machine: Store, tmp_path: Path) -> None:
    (report,) = (tmp_path / "remote").glob("tiny/fold/*/report.json")
    newer = tmp_path / "remote" / "other" / "fold" / report.parent.name
    newer.mkdir(parents=True)
    (newer / "report.json").write_text(json.dumps({"schema_version": 9}))
    for blob in blobs(tmp_path):
        os.utime(blob, (0, 0))
    assert "cannot be read by this version" in collect(machine)[0]
    assert blobs(tmp_path)


def test_what_was_never_finished_goes_when_it_is_old(machine: Store, tmp_path: Path) -> None:
    (blob,) = blobs(tmp_path)
    partial = blob.parent / f".{blob.name}.12345678.partial"
    partial.write_bytes(b"mo")
    collect(machine)
    assert partial.exists()
    os.utime(partial, (0, 0))
    collect(machine)
    assert not partial.exists()


def test_a_collection_that_finds_nothing_leaves_what_others_know_valid(machine: Store, tmp_path: Path) -> None:
    collect(machine)
    other = open_shared(f"file://{tmp_path}/remote", tmp_path / "other")
    before = tree(tmp_path / "remote")
    collect(machine)
    assert not other.generation.moved()
    assert tree(tmp_path / "remote").keys() == before.keys()
    shutil.rmtree(tmp_path / "remote")
    assert collect_remote(machine, other, {"tiny": ALL}).folders == ()
