"""The request that made an artifact, run again: every file comes out as it was, byte for byte."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.tensors import load_batches, save_batches
from tests.commands import Call
from tests.projects import Project


def artifact(project: Project, pipeline: str, step: str, *, holding: str = "report.json") -> str:
    """The first artifact of a step that holds a file."""
    folders = sorted(path.parent for path in (project.store / pipeline / step).glob(f"[!.]*/{holding}"))
    return str(folders[0].relative_to(project.store))


def same(project: Project, call: Call, name: str) -> set[str]:
    said = call(project, "repro", name, "--json")
    assert set(said.json) == {"artifact", "files"}
    assert said.json["artifact"] == name
    assert set(said.json["files"].values()) == {"identical"}, said
    assert said.code == 0
    return set(said.json["files"])


@pytest.mark.parametrize(
    ("step", "files"),
    [
        ("export", {"model.onnx", "golden_outputs.safetensors"}),
        ("fold", {"model.onnx"}),
        ("quantize", {"model.onnx"}),
        ("judge", {"outputs.safetensors"}),
        ("build", {"model.engine", "card.json"}),
        ("parity", {"outputs.safetensors", "inputs.json", "outputs.json"}),
    ],
)
def test_what_an_onnx_source_gave_comes_out_again(once: Project, call: Call, step: str, files: set[str]) -> None:
    assert same(once, call, artifact(once, "tiny", step)) == files


@pytest.mark.parametrize(
    ("step", "files"),
    [
        ("data", {"golden.safetensors", "evaluation.safetensors", "targets.safetensors"}),
        ("export", {"model.onnx", "golden_outputs.safetensors", "evaluation_outputs.safetensors"}),
    ],
)
def test_what_a_torch_source_gave_comes_out_again(torch_once: Project, call: Call, step: str, files: set[str]) -> None:
    assert same(torch_once, call, artifact(torch_once, "net", step, holding=min(files))) == files


def test_a_store_that_was_moved_still_knows_how(once: Project, call: Call, tmp_path: Path) -> None:
    moved = Project(tmp_path / "elsewhere")
    shutil.copytree(once.folder, moved.folder, dirs_exist_ok=True)
    assert same(moved, call, artifact(moved, "tiny", "judge")) == {"outputs.safetensors"}


def test_a_file_that_comes_out_different_is_named(done: Project, call: Call) -> None:
    (golden,) = (done.store / "tiny" / "data").glob("[!.]*/golden.safetensors")
    save_batches(golden, [{"x": 2 * batch["x"]} for batch in load_batches(golden)])
    said = call(done, "repro", artifact(done, "tiny", "judge"))
    assert (said.code, said.out) == (1, "different  outputs.safetensors\n")


def test_a_measurement_cannot_be_had_again(once: Project, call: Call) -> None:
    said = call(once, "repro", artifact(once, "tiny", "benchmark"))
    assert (said.code, said.out) == (2, "")
    assert "benchmark keeps no request" in said.err


def test_the_polygraphy_line_runs_and_agrees(done: Project, call: Call) -> None:
    line = call(done, "repro", artifact(done, "tiny", "parity"), "--polygraphy").out
    assert line.startswith("polygraphy run ")
    name, *arguments = shlex.split(line)
    command = [str(Path(sys.executable).with_name(name)), *arguments]
    judged = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert "Pass Rate: 100.00%" in judged.stdout


def test_where_polygraphy_has_no_equal_this_is_said(once: Project, call: Call) -> None:
    said = call(once, "repro", artifact(once, "tiny", "data"), "--polygraphy")
    assert (said.code, said.out) == (2, "")
    assert "Polygraphy has nothing that does what data does" in said.err
