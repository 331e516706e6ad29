"""`produce` leaves an artifact whole or nothing, makes it once, and finds what was damaged or changed since."""

import errno
import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.core.digests import sha256_file
from tasks.core.errors import ArtifactDamaged, StepError, StoreError
from tasks.core.report import Artifact, Observation, Recipe
from tasks.core.store import Made, Miss, Produced, Store, read_report
from tests.programs import Program

RECIPE = Recipe(pipeline="digits", step="fold", version=1, params={"size": 3})
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


FAR_FILE = {"name": "../../far", "bytes": 1, "sha256": "0"}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", tmp_path)


class Maker:
    """A step's work, which counts how often it was done."""

    def __init__(self, content: bytes = b"model", observe: Callable[[], tuple[Observation, ...]] | None = None) -> None:
        self.calls = 0
        self._content = content
        self._observe = observe

    def __call__(self, folder: Path) -> Made:
        self.calls += 1
        (folder / "model.onnx").write_bytes(self._content)
        (folder / "weights").write_bytes(b"w" * 1000)
        return Made({"nodes": 1}, self._observe() if self._observe else None)


def hidden(store: Store) -> list[Path]:
    return [path for path in store.root.rglob(".*") if path.suffix in (".partial", ".lock")]


def produce(store: Store) -> tuple[Path, Maker]:
    maker = Maker()
    return store.folder(store.produce(RECIPE, maker).artifact), maker


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


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def edit(path: Path) -> None:
    path.write_bytes(b"v" + path.read_bytes()[1:])


def edit_secretly(path: Path) -> None:
    status = path.stat()
    edit(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def edit_report(path: Path) -> None:
    path.write_text(path.read_text().replace('"nodes":1', '"nodes":2').replace('"nodes": 1', '"nodes": 2'))


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("weights", truncate, "weights has 100 of 1000 bytes"),
        ("weights", edit, "weights was edited"),
        ("weights", Path.unlink, "weights is missing"),
        ("weights", lambda path: path.write_bytes(b""), "weights has 0 of 1000 bytes"),
        ("report.json", Path.unlink, "report.json cannot be read: No such file or directory"),
        ("report.json", lambda path: path.write_bytes(b""), "report.json is not a valid report"),
        ("report.json", truncate, "report.json is not a valid report"),
        ("report.json", lambda path: path.write_bytes(b"\xff\x00{"), "report.json is not a valid report"),
        ("report.json", edit_report, "report.json was edited"),
    ],
)
def test_damaged_artifact_is_found_and_made_again(
    store: Store, name: str, damage: Callable[[Path], object], reason: str
) -> None:
    folder, _ = produce(store)
    damage(folder / name)
    found = store.find(RECIPE, observing=False)
    assert isinstance(found, Miss)
    assert found.damaged == folder
    assert found.reason.startswith(reason)
    again = store.produce(RECIPE, Maker())
    assert again.rebuilt.startswith(reason)
    assert not again.cached
    assert store.produce(RECIPE, Maker()).cached
    assert (folder / "weights").read_bytes() == b"w" * 1000
    assert store.report(again.artifact).metrics == {"nodes": 1}
    assert hidden(store) == []


def test_artifact_that_is_gone_is_made_again(store: Store) -> None:
    folder, _ = produce(store)
    shutil.rmtree(folder)
    assert produce(store)[1].calls == 1


def test_report_of_another_artifact_is_no_hit(store: Store) -> None:
    folder, _ = produce(store)
    other = RECIPE.model_copy(update={"version": 2})
    shutil.copytree(folder, folder.parent / other.lookup()[:20])
    found = store.find(other, observing=False)
    assert isinstance(found, Miss)
    assert "holds another key" in found.reason


@pytest.mark.parametrize(
    "change", [{"pipeline": "../.."}, {"step": "a/b"}, {"key": ".."}, {"pipeline": "a\0b"}, {"files": [FAR_FILE]}]
)
def test_report_that_leads_out_of_the_store_is_none(store: Store, change: dict[str, object]) -> None:
    folder, _ = produce(store)
    report = folder / "report.json"
    report.write_text(json.dumps(json.loads(report.read_text()) | change))
    with pytest.raises(StoreError, match="is not a valid report"):
        read_report(folder)


@pytest.mark.parametrize("folder", ["", "digits", "../other/key", "/other/key", "digits/../..", "digits/fold/a\0b"])
def test_what_is_no_artifact_is_not_discarded(store: Store, folder: str) -> None:
    with pytest.raises(StoreError, match="is no artifact of this store"):
        store.discard(folder)


def test_folder_with_a_name_that_none_can_have_holds_no_report() -> None:
    with pytest.raises(StoreError):
        read_report(Path("a\0b"))


def test_sweep_follows_no_link(store: Store, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.kept.partial").touch()
    (store.root / "digits/build").mkdir(parents=True)
    (store.root / "digits/linked").symlink_to(tmp_path / "other")
    (store.root / "digits/build/linked").symlink_to(tmp_path / "other")
    store.sweep("digits")
    assert (tmp_path / "other/.kept.partial").exists()


def test_secret_edit_is_found_when_the_file_is_opened(store: Store) -> None:
    artifact = store.produce(RECIPE, Maker()).artifact
    assert store.file(artifact, "weights").read_bytes() == b"w" * 1000
    edit_secretly(store.folder(artifact) / "weights")
    with pytest.raises(ArtifactDamaged, match="weights was edited") as caught:
        store.file(artifact, "weights")
    store.discard(caught.value.folder)
    assert not store.produce(RECIPE, Maker()).cached
    assert store.file(artifact, "weights").read_bytes() == b"w" * 1000


def test_secret_edit_is_found_when_everything_is_verified(store: Store) -> None:
    artifact = store.produce(RECIPE, Maker()).artifact
    edit_secretly(store.folder(artifact) / "weights")
    thorough = Store(store.root, store.project, verify_all=True)
    again = thorough.produce(RECIPE, Maker())
    assert again.rebuilt.startswith("weights was edited")
    assert thorough.produce(RECIPE, Maker()).cached


def test_file_that_an_artifact_does_not_have_is_named(store: Store) -> None:
    artifact = store.produce(RECIPE, Maker()).artifact
    with pytest.raises(StoreError, match=r"has no file 'model.engine'") as caught:
        store.file(artifact, "model.engine")
    assert "model.onnx, weights" in caught.value.cure


def test_missing_sidecar_costs_hashing_and_no_rebuild(store: Store) -> None:
    folder, _ = produce(store)
    (folder / ".verified").unlink()
    assert store.produce(RECIPE, Maker()).cached
    assert (folder / ".verified").exists()


def test_copied_store_is_valid_without_a_rebuild(store: Store, tmp_path: Path) -> None:
    seen = (Observation(kind="absent", name="override.json"),)
    observed = RECIPE.model_copy(update={"step": "export"})
    store.produce(RECIPE, Maker())
    store.produce(observed, Maker(observe=lambda: seen), observing=True)
    shutil.copytree(store.root, tmp_path / "copy")  # new inodes and times
    shutil.rmtree(store.root)
    copy = Store(tmp_path / "copy", store.project)
    assert copy.produce(RECIPE, Maker()).cached
    assert copy.produce(observed, Maker(), observing=True).cached
    assert copy.file(copy.produce(RECIPE, Maker()).artifact, "weights").exists()


def source(store: Store, content: str) -> Recipe:
    (store.project / "model.pt").write_text(content)
    return RECIPE.model_copy(update={"sources": {"model.pt": store.sources.sha256(store.project / "model.pt")}})


@pytest.mark.parametrize("change", [lambda path: path.write_text("two"), Path.unlink])
def test_source_that_changes_while_it_is_read_is_a_clear_error(store: Store, change: Callable[[Path], object]) -> None:
    def make(folder: Path) -> Made:
        change(store.project / "model.pt")
        return Maker()(folder)

    with pytest.raises(StepError, match=r"model.pt changed while fold read it"):
        store.produce(source(store, "one"), make)
    assert hidden(store) == []
    assert not store.produce(source(store, "one"), Maker()).cached


class Project:
    """A step that observes what it reads: helper.py, and data.npy if that is there."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.recipe = RECIPE.model_copy(update={"step": "export"})
        self.write("one")

    def write(self, text: str) -> None:
        (self.store.project / "helper.py").write_text(text)

    def observe(self) -> tuple[Observation, ...]:
        helper = Observation(kind="file", name="helper.py", digest=sha256_file(self.store.project / "helper.py"))
        return helper, Observation(kind="absent", name="data.npy")

    def produce(self) -> Produced:
        return self.store.produce(self.recipe, Maker(observe=self.observe), observing=True)

    @property
    def index(self) -> Path:
        (path,) = (self.store.root / "digits/export/index").iterdir()
        return path


def reason_of(found: Artifact | Miss) -> str:
    assert isinstance(found, Miss)
    return found.reason


def test_observed_step_hits_while_what_it_read_is_the_same(store: Store) -> None:
    project = Project(store)
    assert reason_of(store.find(project.recipe, observing=True)) == "never made from these inputs"
    first = project.produce()
    assert not first.cached
    assert project.produce().cached
    assert first.artifact.key != project.recipe.lookup()
    assert store.report(first.artifact).observed == project.observe()


def test_changed_observation_is_named_and_changed_back_hits_the_first_key(store: Store) -> None:
    project = Project(store)
    first = project.produce()
    project.write("two")
    assert reason_of(store.find(project.recipe, observing=True)) == "helper.py changed"
    second = project.produce()
    assert not second.cached
    assert second.artifact.key != first.artifact.key
    project.write("one")
    back = project.produce()
    assert (back.cached, back.artifact) == (True, first.artifact)


def test_file_that_appears_is_named(store: Store) -> None:
    project = Project(store)
    project.produce()
    (store.project / "data.npy").touch()
    assert reason_of(store.find(project.recipe, observing=True)) == "data.npy is there now"


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\x00 garbage \xc3\n", b'{"key": "to', b"[]\n5\n"])
def test_index_that_was_damaged_costs_one_rebuild(store: Store, damage: bytes) -> None:
    project = Project(store)
    first = project.produce()
    project.index.write_bytes(damage)
    again = project.produce()
    assert (again.cached, again.artifact) == (False, first.artifact)
    assert project.produce().cached
    assert hidden(store) == []


def test_torn_end_of_an_index_costs_nothing(store: Store) -> None:
    project = Project(store)
    project.produce()
    with project.index.open("ab") as stream:
        stream.write(b'{"key": "torn by a kill", "obs')
    assert project.produce().cached


def test_damaged_artifact_of_an_observed_step_is_made_again(store: Store) -> None:
    project = Project(store)
    first = project.produce()
    truncate(store.folder(first.artifact) / "weights")
    again = project.produce()
    assert again.rebuilt == "weights has 100 of 1000 bytes"
    assert again.artifact == first.artifact
    assert project.produce().cached


def test_discarded_artifact_of_an_observed_step_is_made_again(store: Store) -> None:
    project = Project(store)
    first = project.produce()
    store.discard(first.artifact.folder)
    assert not project.produce().cached
    assert project.produce().cached
