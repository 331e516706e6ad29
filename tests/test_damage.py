"""Files of the store that were cut off, edited, removed or overwritten: found, made again, and told."""

import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from flows import cli
from tests.projects import QUICK, Project, linear

pytestmark = pytest.mark.slow

MODULE = """\
import numpy as np

def data():
    for start in range(2):
        yield {"x": np.full((4, 4), start + 1, "float32")}, {"label": np.zeros(4)}

def one(outputs, targets, reference):
    return 1.0
"""
STEPS = ("inspect", "data", "export", "fold", "judge", "quantize", "build", "parity", "evaluate", "benchmark")
PIPELINE: dict[str, Any] = {
    "model": {"onnx": "model.onnx"},
    "dims": {"batch": {"min": 1, "opt": 4, "max": 8}},
    "data": {"evaluation": {"source": "zoo:data", "metric": {"function": "zoo:one"}}},
    **QUICK,
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that was run."""
    folder = tmp_path_factory.mktemp("damage") / "project"
    folder.mkdir()
    onnx.save(linear("batch"), folder / "model.onnx")
    onnx.save(linear(), folder / "other.onnx")
    (folder / "zoo.py").write_text(MODULE)
    project = Project(folder)
    project.write(a=PIPELINE, b={"model": {"onnx": "other.onnx"}, **QUICK})
    assert project.run("run", "--json").code == 0
    return project


def _artifacts(project: Project) -> list[Path]:
    reports = [path for step in STEPS for path in sorted((project.store / "a" / step).glob("[!.]*/report.json"))]
    assert {path.parent.parent.name for path in reports} == set(STEPS)
    return [path.parent for path in reports]


def _victim(folder: Path) -> Path:
    """The artifact's main file."""
    names = sorted(path.name for path in folder.glob("[!.]*"))
    return folder / next((name for name in names if not name.endswith(".json")), "request.json")


def _edit(path: Path) -> None:
    """Change one byte in place; once, where two artifacts share the file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


DAMAGE: dict[str, Callable[[Path], None]] = {"edited": _edit, "cut off": _cut, "missing": Path.unlink}
TOLD = {"edited": "was edited", "cut off": " bytes", "missing": "is missing"}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_file_of_any_step_is_found_and_made_again(project: Project, damage: str) -> None:
    folders = _artifacts(project)
    victims = {path.stat().st_ino: path for path in map(_victim, folders)} if damage != "missing" else {}
    for path in victims.values() or map(_victim, folders):
        DAMAGE[damage](path)
    ran = project.run("run", "--json")
    assert (ran.code, ran.runs["a"].status, ran.runs["b"].status) == (0, "passed", "passed")
    notes = project.record("a").notes
    for folder in folders:
        name = str(folder.relative_to(project.store))
        note = next((note for note in notes if name in note), "")
        assert note.startswith("rebuilt: "), (name, notes)
        assert TOLD[damage] in note
        assert note in ran.stderr


def test_damaged_report_of_any_step_is_found_and_made_again(project: Project) -> None:
    folders = _artifacts(project)
    for folder, damage in zip(folders, itertools.cycle(DAMAGE.values()), strict=False):
        damage(folder / "report.json")
    ran = project.run("run", "--json")
    assert (ran.code, ran.runs["a"].status) == (0, "passed")
    notes = project.record("a").notes
    for folder in folders:
        assert any(str(folder.relative_to(project.store)) in note and "report.json" in note for note in notes)
    assert project.run("run", "a", "--json", "--verify").code == 0
    assert not any("rebuilt" in note for note in project.record("a").notes)


def _edit_unseen(path: Path) -> bytes:
    """Edit a file so that a stat looks the same: as a failing disk would."""
    status, before = path.stat(), path.read_bytes()
    _edit(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return before


def test_edit_that_a_stat_does_not_show_is_found_when_a_step_opens_the_file(project: Project) -> None:
    model = project.artifact("a", "export") / "model.onnx"
    whole = _edit_unseen(model)
    shutil.rmtree(project.artifact("a", "fold"))
    ran = project.run("run", "a", "--json")
    assert (ran.code, ran.runs["a"].status) == (0, "passed"), ran.stderr
    assert model.read_bytes() == whole
    told = f"rebuilt: {model.parent.relative_to(project.store)}: model.onnx was edited"
    assert told in ran.stderr
    assert any(told in note for note in project.record("a").notes)
    steps = {(step.step, step.status, step.cached) for step in ran.runs["a"].steps}
    assert {("export", "done", False), ("fold", "done", False), ("data", "done", True)} <= steps


@pytest.mark.parametrize("name", ["model.engine", "card.json"])
def test_engine_is_verified_before_it_is_promoted(project: Project, name: str) -> None:
    file = project.artifact("a", "build") / name
    whole = _edit_unseen(file)
    ran = project.run("run", "a", "--json")
    assert (ran.code, ran.runs["a"].status) == (0, "passed"), ran.stderr
    assert file.read_bytes() == whole
    assert f"{name} was edited" in ran.stderr


def test_verify_hashes_what_a_stat_does_not_show(project: Project) -> None:
    outputs = project.artifact("a", "parity") / "outputs.json"
    whole = _edit_unseen(outputs)
    assert "rebuilt" not in project.run("run", "a", "--json").stderr
    assert "outputs.json was edited" in project.run("run", "a", "--json", "--verify").stderr
    assert outputs.read_bytes() == whole


def test_promotion_record_that_cannot_be_read_stops_promotion_and_nothing_else(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    record = project.store / "a/promotions/20200101T000000.000000Z-000000.json"
    record.write_text("{ not a record")
    try:
        ran = project.run("run", "--json")
        assert (ran.code, ran.runs["a"].status, ran.runs["b"].status) == (1, "failed", "passed")
        assert (ran.status("a", "promote"), ran.runs["a"].promoted) == ("failed", None)
        assert f"{record} is not a promotion record" in ran.stderr
        assert "restore it from a backup, or remove it" in ran.stderr
        for command in (["list"], ["show", "a"], ["rollback", "a"], ["gc"], ["promote", "a", "onnxruntime/fp32"]):
            assert cli.run([*command, "--json", "-f", str(project.folder / "pipelines.yaml")]) == 1
            assert "is not a promotion record" in json.loads(capsys.readouterr().out)["error"]["message"]
    finally:
        record.unlink()
    assert project.run("run", "a").code == 0


def test_run_record_that_cannot_be_read_is_passed_over(project: Project) -> None:
    for name, content in (
        ("99990101T000000.000Z-000000", b"{ not a record"),
        ("99990101T000000.000Z-000001", b"\xff\0"),
    ):
        folder = project.store / "a/runs" / name
        folder.mkdir()
        (folder / "run.json").write_bytes(content)
    listed = json.loads(project.run("list", "--json").stdout)["pipelines"]
    assert [(row["pipeline"], row["status"]) for row in listed] == [("a", "passed"), ("b", "passed")]
    assert json.loads(project.run("show", "a", "--json").stdout)["record"]["outcome"]["status"] == "passed"
    assert project.run("gc", "--keep-runs", "3").code == 0
    ran = project.run("run", "--json")
    assert ran.code == 0
    assert all(step.cached for step in ran.runs["a"].steps if step.step != "promote")


def test_index_that_cannot_be_read_costs_one_rebuild(project: Project) -> None:
    for index in (project.store / "a").glob("*/index/*.jsonl"):
        index.write_bytes(b"\xff\xfe{ not an entry\n" + np.random.default_rng(0).bytes(64))
    assert project.run("run", "a", "--json").code == 0
    ran = project.run("run", "a", "--json")
    assert all(step.cached for step in ran.runs["a"].steps if step.step != "promote")


def test_metrics_of_another_kind_are_damage(project: Project) -> None:
    (folder,) = (path.parent for path in (project.store / "a/parity").glob("[!.]*/report.json"))
    report = json.loads((folder / "report.json").read_text())
    report["metrics"] = {"hops": {"none": {}}}
    (folder / "report.json").write_text(json.dumps(report))
    (folder / ".verified").unlink()  # it tells that the report was edited
    done = project.run("plan", "a")
    assert (done.code, "its metrics are not those of parity" in done.stderr) == (1, True)
    done = project.run("run", "a", "--json")
    assert done.code == 0
    assert "its metrics are not those of parity" in done.stderr
