"""`produce` leaves an artifact whole or nothing, makes it once, and finds what was damaged or changed since."""

import errno
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.core.digests import sha256_file
from tasks.core.errors import StepError, StoreError
from tasks.core.store import Made, Miss, Store
from tests.makers import RECIPE, Maker, hidden, produce
from tests.programs import Program

# Says when it is inside `make`; goes on when its input is closed.
PRODUCE = """
import sys
from pathlib import Path
from tasks.core.report import Recipe
from tasks.core.store import Made, Store

def make(folder):
    with Path(sys.argv[2]).open("a") as calls:
        calls.write("made\\n")
    (folder / "model.onnx").write_bytes(b"half")
    (folder / "scratch").mkdir()
    print("making", flush=True)
    sys.stdin.read()
    (folder / "model.onnx").write_bytes(b"model")
    return Made({"nodes": 1})

root = Path(sys.argv[1])
recipe = Recipe(pipeline="digits", step="fold", version=1, params={"size": 3})
made = Store(root / "store", root).produce(recipe, make)
print("cached" if made.cached else "made", flush=True)
"""


def test_artifact_is_complete_and_tells_what_it_is(store: Store) -> None:
    folder, _ = produce(store)
    assert sorted(path.name for path in folder.iterdir()) == [".verified", "model.onnx", "report.json", "weights"]
    report = json.loads((folder / "report.json").read_text())
    assert report["key"] == RECIPE.lookup()
    assert folder.name == RECIPE.lookup()[:20]
    digests = {file["name"]: (file["bytes"], file["sha256"]) for file in report["files"]}
    assert digests["model.onnx"] == (5, sha256_file(folder / "model.onnx"))
    assert (report["status"], report["metrics"]) == ("done", {"nodes": 1})
    assert hidden(store) == []


def test_second_produce_is_a_hit(store: Store) -> None:
    maker = Maker()
    first, second = (store.produce(RECIPE, maker) for _ in range(2))
    assert (first.cached, second.cached, maker.calls) == (False, True, 1)
    assert first.artifact == second.artifact == store.find(RECIPE, observing=False)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "export"},
        {"version": 2},
        {"params": {"size": 4}},
        {"inputs": {"data": "0"}},
        {"sources": {"model.onnx": "0"}},
        {"tools": {"onnx": "1"}},
        {"host": {"cpu": "x"}},
    ],
)
def test_whatever_decides_what_is_made_is_in_the_key(change: dict[str, object]) -> None:
    assert RECIPE.model_copy(update=change).lookup() != RECIPE.lookup()


@pytest.mark.parametrize("change", [{"pipeline": "other"}, {"subject": "fp16"}, {"lineage": ("a/b/c",)}])
def test_what_only_tells_is_not_in_the_key(change: dict[str, object]) -> None:
    assert RECIPE.model_copy(update=change).lookup() == RECIPE.lookup()


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (StepError("it broke"), StepError),
        (ZeroDivisionError(), ZeroDivisionError),
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(errno.ENOSPC, "No space left on device"), StoreError),
    ],
)
def test_failed_make_leaves_nothing(store: Store, error: BaseException, shown: type[BaseException]) -> None:
    def fail(folder: Path) -> Made:
        (folder / "model.onnx").write_bytes(b"half")
        (folder / "scratch/deep").mkdir(parents=True)
        raise error

    with pytest.raises(shown):
        store.produce(RECIPE, fail)
    assert [path for path in store.root.rglob("*") if path.is_file()] == []
    assert isinstance(store.find(RECIPE, observing=False), Miss)
    assert produce(store)[1].calls == 1


def test_make_that_leaves_a_folder_is_refused(store: Store) -> None:
    def leave_a_folder(folder: Path) -> Made:
        (folder / "inner").mkdir()
        return Made({})

    with pytest.raises(StepError, match="'inner', which is not a file"):
        store.produce(RECIPE, leave_a_folder)
    assert not list((store.root / "digits/fold").iterdir())


def test_scratch_of_a_worker_does_not_stay(store: Store) -> None:
    def use_scratch(folder: Path) -> Made:
        (folder / "scratch").mkdir()
        (folder / "scratch/big").write_bytes(b"x")
        (folder / "model.onnx").write_bytes(b"model")
        return Made({})

    assert store.produce(RECIPE, use_scratch).artifact.files == ("model.onnx",)


def test_place_that_cannot_be_written_is_a_clear_error(store: Store) -> None:
    store.root.mkdir()
    (store.root / "digits").touch()
    with pytest.raises(StoreError, match="cannot write the store"):
        produce(store)


def test_run_killed_inside_make_leaves_what_the_next_produce_clears(store: Store, tmp_path: Path) -> None:
    victim = Program(PRODUCE, tmp_path, tmp_path / "calls")
    assert victim.said() == "making"
    victim.kill()
    assert {path.suffix for path in hidden(store)} == {".partial", ".lock"}
    folder, maker = produce(store)
    assert maker.calls == 1
    assert (folder / "model.onnx").read_bytes() == b"model"
    assert hidden(store) == []


def test_processes_that_race_compute_once(store: Store, tmp_path: Path) -> None:
    first = Program(PRODUCE, tmp_path, tmp_path / "calls")
    assert first.said() == "making"
    others = [Program(PRODUCE, tmp_path, tmp_path / "calls") for _ in range(3)]
    time.sleep(0.2)  # they may have come to wait by now; what is promised does not depend on it
    assert first.end() == "made"
    assert [other.end() for other in others] == ["cached"] * 3
    assert (tmp_path / "calls").read_text() == "made\n"
    assert hidden(store) == []


def test_one_that_waits_takes_over_from_one_that_is_killed(tmp_path: Path) -> None:
    first = Program(PRODUCE, tmp_path, tmp_path / "calls")
    assert first.said() == "making"
    second = Program(PRODUCE, tmp_path, tmp_path / "calls")
    first.kill()
    assert second.end() == "making\nmade"


def test_threads_that_race_compute_once(store: Store) -> None:
    calls = []

    def make(folder: Path) -> Made:
        calls.append(folder)
        time.sleep(0.1)
        (folder / "model.onnx").write_bytes(b"model")
        return Made({})

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: store.produce(RECIPE, make), range(8)))
    assert len(calls) == 1
    assert sorted(produced.cached for produced in made) == [False] + [True] * 7
    assert len({produced.artifact for produced in made}) == 1


def test_stopped_run_waits_for_nobody(store: Store, tmp_path: Path) -> None:
    holder = Program(PRODUCE, tmp_path, tmp_path / "calls")
    assert holder.said() == "making"
    store.stop.set()
    with pytest.raises(StepError, match="stopped"):
        produce(store)
    assert holder.end() == "made"


def test_sweep_removes_what_killed_runs_left(store: Store, tmp_path: Path) -> None:
    folder, _ = produce(store)
    victim = Program(PRODUCE.replace('{"size": 3}', '{"size": 4}'), tmp_path, tmp_path / "calls")
    assert victim.said() == "making"
    victim.kill()
    left = [
        store.root / ".sources/.entry.json.0.partial",
        store.root / "digits/.promoted.json.0.partial",
        store.root / "digits/promotions/.record.json.0.partial",
        store.root / "digits/runs/today/.run.json.0.partial",
        folder / "..verified.0.partial",
    ]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
    removed = folder.parent / f".{folder.name}.0.partial"  # a removal that was killed
    removed.mkdir()
    (removed / "weights").touch()
    (store.root / "digits/.in-use.lock").touch()
    store.sweep("digits")
    assert hidden(store) == []
    assert store.produce(RECIPE, Maker()).cached


def test_sweep_leaves_what_somebody_works_on(store: Store, tmp_path: Path) -> None:
    maker = Program(PRODUCE, tmp_path, tmp_path / "calls")
    assert maker.said() == "making"
    at_work = sorted(hidden(store))
    with store.in_use("digits"):
        store.sweep("digits")
        assert sorted(hidden(store)) == sorted([*at_work, store.root / "digits/.in-use.lock"])
    assert maker.end() == "made"
    assert hidden(store) == []


def test_sweep_of_a_store_that_is_not_there_does_nothing(store: Store) -> None:
    store.sweep("digits")
    assert not store.root.exists()


def test_pipeline_is_unused_only_while_no_run_is_at_work(store: Store) -> None:
    with store.in_use("digits"), store.in_use("digits"), store.unused("digits") as free:
        assert not free
    with store.unused("digits") as free:
        assert free
        stopped = Store(store.root, store.project, threading.Event())
        stopped.stop.set()
        with pytest.raises(StepError, match="stopped"), stopped.in_use("digits"):
            pass
    assert hidden(store) == []
