"""ONNX files and folders in place of a pipeline's name: the smallest pipeline, without a YAML."""

import json
import shutil
from pathlib import Path

import onnx
import pytest

from flows import cli
from tests.commands import DIMS
from tests.projects import QUICK, Project, linear


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with a model in it, without a YAML."""
    onnx.save(linear(), tmp_path / "my net.onnx")
    (tmp_path / "one").mkdir()
    onnx.save(linear(), tmp_path / "one/anything.onnx")
    (tmp_path / "several").mkdir()
    for name in ("a.onnx", "b.onnx"):
        onnx.save(linear(), tmp_path / "several" / name)
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks/mine.py").write_text("")  # of no concern where no code of the user's is run
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_file_runs_by_itself_and_is_looked_at_by_its_path(folder: Path) -> None:
    project = Project(folder)
    finished = project.run("run", "--json", "my net.onnx")
    assert finished.code == 0, finished.stderr
    assert {engine.id: engine.status for engine in finished.runs["my-net"].engines} == {
        "onnxruntime/fp32": "passed",
        "onnxruntime/fp16": "passed",
    }
    assert (folder / "artifacts/my-net/promotions").is_dir()
    shown = project.run("show", "--json", "my net.onnx")
    assert json.loads(shown.stdout)["record"]["outcome"]["pipeline"] == "my-net"
    planned = json.loads(project.run("plan", "--json", "my net.onnx").stdout)["plans"][0]
    assert planned["pipeline"] == "my-net"
    assert {step["state"] for step in planned["steps"] if step["step"] != "promote"} == {"cached"}
    assert project.run("rollback", "my net.onnx").code == 0
    assert project.run("promote", "my net.onnx", "onnxruntime/fp16").code == 0


def test_a_folder_in_the_yaml_stands_for_the_only_file_in_it(folder: Path) -> None:
    shutil.rmtree(folder / "tasks")
    project = Project(folder)
    project.write(quick={"model": {"onnx": "one"}, **QUICK})
    assert project.run("run", "--json").runs["quick"].status == "passed"
    onnx.save(linear("batch"), folder / "one/model.onnx")  # from now on, that is what is meant
    project.write(quick={"model": {"onnx": "one"}, "dims": DIMS, **QUICK})
    assert project.run("run", "--json").runs["quick"].status == "passed"


def test_several_candidates_are_named_with_the_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder / "tasks")
    Project(folder).write(which={"model": {"onnx": "several"}, **QUICK})
    assert cli.run(["validate", "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert "holds 2 ONNX files: a.onnx, b.onnx" in error["message"]
    assert (error["line"], error["path"]) == (5, "pipelines.which.model.onnx")
    (folder / "empty").mkdir()
    Project(folder).write(which={"model": {"onnx": "empty"}, **QUICK})
    assert cli.run(["validate"]) == 2
    assert "holds no ONNX file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["several"], "holds 2 ONNX files: a.onnx, b.onnx"),
        (["nothing.onnx"], "'nothing.onnx' is no pipeline, and there is no such file or folder"),
        (["nothing"], "'nothing' is no ONNX file or folder either"),
        (["one", "nothing"], "'nothing' is no ONNX file or folder either"),
        (["one", "./one"], "called 'one', and there is one of that name already"),
        (["-f", "elsewhere.yaml", "one"], "there is no file"),
    ],
)
def test_what_is_neither_a_pipeline_nor_a_model_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert cli.run(["run", "--json", *arguments]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert words in error["message"]
    assert error["cure"]
    assert not (folder / "artifacts").exists()


def test_a_name_of_the_yaml_wins(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(folder / "tasks")
    project = Project(folder)
    project.write(one={"model": {"onnx": "my net.onnx"}, **QUICK})
    assert cli.run(["plan", "--json", "one"]) == 0
    assert "inputs" not in capsys.readouterr().out
    assert cli.run(["plan", "./one"]) == 2  # its pipeline would be mixed up with that of the YAML
    assert "there is one of that name already" in capsys.readouterr().err


def test_dynamic_dims_need_a_yaml_that_says_their_sizes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(linear("batch"), folder / "dynamic.onnx")
    assert cli.run(["run", "--json", "dynamic.onnx"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert "dynamic dims ['batch']" in error["message"]
    assert "put it into a pipelines.yaml" in error["cure"]
