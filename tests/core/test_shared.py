"""Machines that share a remote store: each byte is made once, verified, and put right where it was damaged."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tasks.core.blobs import blob_name
from tasks.core.digests import sha256_file
from tasks.core.errors import RemoteDamaged, StoreError
from tasks.core.report import Artifact, Observation
from tasks.core.shared import Shared, open_shared
from tasks.core.store import Made, Store, read_report
from tests.makers import RECIPE, Maker
from tests.programs import Program

# Copies in parts of 1000 bytes, says before each part or file where it is, and goes on when it is told to.
COPY = """
import sys
from pathlib import Path
from tasks.core import blobs
from tasks.core.remote import Remote
from tasks.core.report import Recipe
from tasks.core.shared import open_shared
from tasks.core.store import Made, Store

blobs._PART = 1000
told = {"read": Remote.read_part, "upload": Remote.upload}

def wait(*what):
    print(*what, flush=True)
    sys.stdin.readline()

def read_part(self, name, start, end):
    wait("read", start)
    return told["read"](self, name, start, end)

def upload(self, source, name):
    wait("upload", source.name)
    return told["upload"](self, source, name)

Remote.read_part, Remote.upload = read_part, upload

def make(folder):
    (folder / "a").write_bytes(b"a" * 500)
    (folder / "b").write_bytes(bytes(range(256)) * 10)
    print("making", flush=True)
    return Made({})

shared = open_shared(sys.argv[1], Path(sys.argv[2]))
recipe = Recipe(pipeline="digits", step="fold", version=1, params={"size": 3})
made = Store(shared.root, Path(sys.argv[2]), shared=shared).produce(recipe, make)
print("cached" if made.cached else "made", flush=True)
"""


def machine(url: str, folder: Path) -> Store:
    shared = open_shared(url, folder / "cache")
    (folder / "project").mkdir(parents=True, exist_ok=True)
    return Store(shared.root, folder / "project", shared=shared)


def remote(store: Store) -> Shared:
    assert store.shared is not None
    return store.shared


def contents(store: Store, artifact: Artifact) -> dict[str, str]:
    return {name: sha256_file(store.file(artifact, name)) for name in artifact.files}


def test_what_one_machine_made_the_other_takes(url: str, tmp_path: Path) -> None:
    first, second = machine(url, tmp_path / "1"), machine(url, tmp_path / "2")
    made, maker = first.produce(RECIPE, Maker()), Maker()
    taken = second.produce(RECIPE, maker)
    assert (made.cached, taken.cached, maker.calls) == (False, True, 0)
    assert contents(first, made.artifact) == contents(second, taken.artifact)
    assert first.report(made.artifact) == second.report(taken.artifact)
    assert not list(second.root.rglob("*.fetched"))


def test_a_hit_that_is_shared_already_asks_nobody(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/remote"
    machine(url, tmp_path / "1").produce(RECIPE, Maker())
    again = machine(url, tmp_path / "1")
    shutil.rmtree(tmp_path / "remote")
    assert again.produce(RECIPE, Maker()).cached
    assert not (tmp_path / "remote").exists()


def test_a_remote_that_was_emptied_is_filled_again(url: str, tmp_path: Path) -> None:
    store = machine(url, tmp_path / "1")
    store.produce(RECIPE, Maker())
    remote(store).remote.remove([found.name for found in remote(store).remote.files()])
    assert machine(url, tmp_path / "1").produce(RECIPE, Maker()).cached
    assert machine(url, tmp_path / "2").produce(RECIPE, Maker()).cached


def test_looking_copies_nothing(url: str, tmp_path: Path) -> None:
    made = machine(url, tmp_path / "1").produce(RECIPE, Maker()).artifact
    second = machine(url, tmp_path / "2")
    assert second.find(RECIPE, observing=False) == made
    assert second.report(made).metrics == {"nodes": 1}
    assert not second.folder(made).exists()
    assert second.file(made, "model.onnx").read_bytes() == b"model"  # asked for, it is fetched


def test_what_user_code_read_on_one_machine_counts_on_the_other(url: str, tmp_path: Path) -> None:
    first, second = machine(url, tmp_path / "1"), machine(url, tmp_path / "2")
    for store in (first, second):
        (store.project / "net.py").write_text("net")
    seen = Observation(kind="file", name="net.py", digest=sha256_file(first.project / "net.py"))
    first.produce(RECIPE, Maker(observe=lambda: (seen,)), observing=True)
    maker = Maker(observe=lambda: (replace_digest(seen, second),))
    assert second.produce(RECIPE, maker, observing=True).cached
    (second.project / "net.py").write_text("another")
    assert not second.produce(RECIPE, maker, observing=True).cached
    (first.project / "net.py").write_text("another")
    assert first.produce(RECIPE, Maker(), observing=True).cached


def replace_digest(seen: Observation, store: Store) -> Observation:
    return seen.model_copy(update={"digest": sha256_file(store.project / seen.name)})


def test_the_first_of_two_that_made_the_same_is_what_both_use(url: str, tmp_path: Path) -> None:
    first, second, maker = machine(url, tmp_path / "1"), machine(url, tmp_path / "2"), Maker(b"ours")

    def make(folder: Path) -> Made:
        first.produce(RECIPE, maker)  # while the second one is at work
        (folder / "model.onnx").write_bytes(b"theirs")
        return Made({})

    artifact = second.produce(RECIPE, make).artifact
    assert second.file(artifact, "model.onnx").read_bytes() == b"ours"
    assert second.report(artifact) == first.report(artifact)
    assert second.produce(RECIPE, maker).cached
    assert maker.calls == 1


def test_weights_that_an_artifact_passes_on_are_stored_and_fetched_once(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/remote"
    first, second = machine(url, tmp_path / "1"), machine(url, tmp_path / "2")
    made = first.produce(RECIPE, Maker()).artifact
    onward = RECIPE.model_copy(update={"step": "quantize", "lineage": (made.folder,)})
    first.produce(onward, Maker())
    digests = {record.sha256 for record in first.report(made).files}
    assert len(list((tmp_path / "remote" / "blobs").glob("*/*"))) == len(digests)
    second.produce(RECIPE, Maker())
    found = second.produce(onward, Maker()).artifact
    assert second.file(found, "weights").samefile(second.folder(made) / "weights")


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path: Path) -> None:
    path.write_bytes(b"x" * path.stat().st_size)


@pytest.mark.parametrize("harm", [cut, edit, Path.unlink])
@pytest.mark.parametrize("victim", ["model.onnx", "report.json"])
def test_a_damaged_copy_is_told_made_again_and_put_right(
    tmp_path: Path, harm: Callable[[Path], None], victim: str
) -> None:
    url = f"file://{tmp_path}/remote"
    first, second, maker = machine(url, tmp_path / "1"), machine(url, tmp_path / "2"), Maker()
    made = first.produce(RECIPE, Maker()).artifact
    digest = next(record.sha256 for record in first.report(made).files if record.name == "model.onnx")
    name = blob_name(digest) if victim == "model.onnx" else f"{made.folder}/report.json"
    harm(tmp_path / "remote" / name)
    again = second.produce(RECIPE, maker)
    assert (again.cached, maker.calls) == (False, 1)
    gone = victim == "report.json" and harm is Path.unlink
    assert ("the remote copy is damaged" in again.rebuilt) is not gone
    assert sha256_file(tmp_path / "remote" / blob_name(digest)) == digest
    assert machine(url, tmp_path / "3").produce(RECIPE, maker).cached
    assert maker.calls == 1


def test_a_damaged_file_of_the_cache_is_fetched_again(tmp_path: Path) -> None:
    url, maker = f"file://{tmp_path}/remote", Maker()
    store = machine(url, tmp_path / "1")
    artifact = store.produce(RECIPE, maker).artifact
    cut(store.folder(artifact) / "model.onnx")
    again = store.produce(RECIPE, maker)
    assert (again.cached, maker.calls) == (True, 1)
    assert "fetched again from the remote store" in again.rebuilt
    assert store.file(artifact, "model.onnx").read_bytes() == b"model"


@pytest.mark.parametrize("name", ["../../escaped", "/escaped", ".verified", "report.json", ""])
def test_a_report_that_names_a_file_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    url = f"file://{tmp_path}/remote"
    made = machine(url, tmp_path / "1").produce(RECIPE, Maker()).artifact
    path = tmp_path / "remote" / made.folder / "report.json"
    report = json.loads(path.read_text())
    report["files"][0]["name"] = name
    path.write_text(json.dumps(report))
    second = machine(url, tmp_path / "2")
    with pytest.raises(RemoteDamaged, match=r"names a file|not a valid report"):
        remote(second).fetch(made.folder)
    assert not list(tmp_path.rglob("escaped"))
    rebuilt = machine(url, tmp_path / "3").produce(RECIPE, Maker()).rebuilt
    assert "names a file" in rebuilt or "not a valid report" in rebuilt


def test_what_was_made_while_the_remote_was_gone_is_kept_and_uploaded_later(tmp_path: Path) -> None:
    url, maker = f"file://{tmp_path}/remote", Maker()
    store = machine(url, tmp_path / "1")

    def make(folder: Path) -> Made:
        (tmp_path / "remote").write_text("in the way")
        return maker(folder)

    with pytest.raises(StoreError, match="failed, while"):
        store.produce(RECIPE, make)
    (tmp_path / "remote").unlink()
    assert machine(url, tmp_path / "1").produce(RECIPE, maker).cached
    assert machine(url, tmp_path / "2").produce(RECIPE, maker).cached
    assert maker.calls == 1


def test_an_upload_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/remote"
    killed = Program(COPY, url, tmp_path / "1")
    assert [killed.said(), killed.said()] == ["making", "upload a"]
    assert killed.process.stdin is not None
    killed.process.stdin.write("\n")
    killed.process.stdin.flush()
    assert killed.said() == "upload b"
    killed.kill()
    again = Program(COPY, url, tmp_path / "1")
    assert again.said() == "upload b"
    assert again.end() == "cached"
    assert machine(url, tmp_path / "2").produce(RECIPE, Maker()).cached


def test_a_download_that_was_killed_goes_on_within_the_file(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/remote"
    assert "made" in Program(COPY, url, tmp_path / "1").end()
    killed = Program(COPY, url, tmp_path / "2")
    assert killed.process.stdin is not None
    for start in (0, 1000):
        assert killed.said() == f"read {start}"
        killed.process.stdin.write("\n")
        killed.process.stdin.flush()
    assert killed.said() == "read 2000"
    killed.kill()
    again = Program(COPY, url, tmp_path / "2")
    assert again.said() == "read 2000"
    assert again.end() == "cached"
    folder = next((tmp_path / "2").glob("*/digits/fold/*/"))
    assert (folder / "b").read_bytes() == bytes(range(256)) * 10
    assert not list((tmp_path / "2").rglob("*.fetched"))


def test_a_download_on_a_torn_file_begins_again(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/remote"
    made = machine(url, tmp_path / "1").produce(RECIPE, Maker()).artifact
    second = machine(url, tmp_path / "2")
    torn = second.folder(made).parent / f".{second.folder(made).name}.fetched"
    torn.mkdir(parents=True)
    (torn / "weights").write_bytes(b"zzz")
    assert second.produce(RECIPE, Maker()).cached
    assert second.file(made, "weights").read_bytes() == b"w" * 1000


def test_what_another_machine_removed_is_put_back_by_the_one_that_uses_it(url: str, tmp_path: Path) -> None:
    first, second = machine(url, tmp_path / "1"), machine(url, tmp_path / "2")
    made = first.produce(RECIPE, Maker()).artifact
    before = remote(second).generation.begin()
    remote(second).remote.remove([found.name for found in remote(second).remote.files(made.folder)])
    remote(second).remote.remove([found.name for found in remote(second).remote.files("blobs")])
    remote(second).generation.end(before, removed=True)
    first.settle((made.folder,))
    assert second.produce(RECIPE, maker := Maker()).cached
    assert maker.calls == 0


def test_two_collections_at_once_are_refused(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/remote"
    first, second = machine(url, tmp_path / "1"), machine(url, tmp_path / "2")
    before = remote(first).generation.begin()
    with pytest.raises(StoreError, match="another `gc` is at work"):
        remote(second).generation.begin()
    remote(first).generation.end(before, removed=False)
    assert not remote(second).generation.moved()


def test_what_is_to_be_made_again_is_not_taken_from_the_remote(tmp_path: Path) -> None:
    url, maker = f"file://{tmp_path}/remote", Maker(b"again")
    machine(url, tmp_path / "1").produce(RECIPE, Maker(b"first"))
    second = machine(url, tmp_path / "2")
    found = second.find(RECIPE, observing=False)
    assert isinstance(found, Artifact)
    second.forget(found)
    assert not second.produce(RECIPE, maker).cached
    third = machine(url, tmp_path / "3")
    assert third.file(third.produce(RECIPE, maker).artifact, "model.onnx").read_bytes() == b"again"


def test_a_store_of_another_layout_is_refused(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote" / "store.json").write_text('{"layout": 2}')
    with pytest.raises(StoreError, match="laid out for another version"):
        machine(f"file://{tmp_path}/remote", tmp_path / "1")


def test_a_stopped_run_stops_copying(tmp_path: Path) -> None:
    url = f"file://{tmp_path}/remote"
    store = machine(url, tmp_path / "1")
    artifact = Store(store.root, store.project).produce(RECIPE, Maker()).artifact  # made, and not shared
    stopped = replace(remote(store))
    stopped.stop.set()
    with pytest.raises(Exception, match="stopped while it copied"):
        stopped.share(artifact.folder)
    assert read_report(store.folder(artifact)).files
