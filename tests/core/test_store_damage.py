"""Artifacts that were cut off, edited, removed or copied: found, named and made again."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core.errors import ArtifactDamaged, StoreError
from tasks.core.report import Observation
from tasks.core.store import Miss, Store, read_report
from tests.makers import RECIPE, Maker, hidden, produce, truncate

FAR_FILE = {"name": "../../far", "bytes": 1, "sha256": "0"}


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
