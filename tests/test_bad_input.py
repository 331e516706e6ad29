"""What is wrong with the YAML is told before anything runs: exit code 2, one paragraph or one JSON object."""

import json
from pathlib import Path

import onnx
import pytest

from flows import cli
from tests.projects import Project, linear

HEAD = "version: 1\npipelines:\n"
TORCH = "  a:\n    model: {torch: zoo:net}\n    inputs: {x: {dtype: float32, shape: [batch, 4]}}\n"
DIMS = "    dims: {batch: {min: 1, opt: 4, max: 8}}\n"
ONNX = "  a:\n    model: {onnx: model.onnx}\n"

# What the YAML says; the line, the path, a part of the message and of the cure that are told.
MISTAKES = {
    "unknown key": (f"{ONNX}    bencmark: {{seconds: 1}}\n", 5, "pipelines.a.bencmark", "unknown key", "'benchmark'"),
    "misspelt precision": (f"{ONNX}    precisions: [fp23]\n", 5, "pipelines.a.precisions[0]", "'fp23'", "'fp32'"),
    "no calibration data": (f"{ONNX}    precisions: [int8]\n", 5, "pipelines.a.precisions[0]", "there is none", "add"),
    "bad YAML": (f"{ONNX}    precisions: [fp32\n", 6, "", "this is not YAML", "brackets"),
    "missing file": ("  a: {model: {onnx: modle.onnx}}\n", 3, "pipelines.a.model.onnx", "'modle.onnx'", "'model.onnx'"),
    "missing function": (
        f"{TORCH}{DIMS}".replace("net", "nte"),
        4,
        "pipelines.a.model.torch",
        "defines no 'nte'",
        "'net'",
    ),
    "dim without a range": (TORCH, 5, "pipelines.a.inputs.x.shape[0]", "'batch' is a dim without a range", "add dims"),
    "min above opt": (
        f"{TORCH}{DIMS}".replace("min: 1", "min: 5"),
        6,
        "pipelines.a.dims.batch",
        "min <= opt <= max",
        "in order",
    ),
    "opt above max": (
        f"{TORCH}{DIMS}".replace("max: 8", "max: 3"),
        6,
        "pipelines.a.dims.batch",
        "min <= opt <= max",
        "in order",
    ),
    "name that leaves the store": ("  ../a: {model: {onnx: model.onnx}}\n", 3, "pipelines.", "'../a'", ""),
    "name with a space": ("  a b: {model: {onnx: model.onnx}}\n", 3, "pipelines.", "'a b'", ""),
    "reserved name": (f"{ONNX}    profiles: [1]\n", 5, "pipelines.a.profiles", "not yet supported", ""),
}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    onnx.save(linear(), tmp_path / "model.onnx")
    (tmp_path / "zoo.py").write_text("def net(): raise RuntimeError('imported')\n")
    return Project(tmp_path)


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_in_the_yaml_ends_with_2(project: Project, mistake: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, line, path, message, cure = MISTAKES[mistake]
    file = project.folder / "pipelines.yaml"
    file.write_text(HEAD + text)
    assert cli.run(["run", "-f", str(file)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"trtflow: {file}:{line}{f' {path}' if path else ': '}")
    assert "Traceback" not in told.err
    assert cli.run(["run", "--json", "-f", str(file)]) == 2
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    error = json.loads(out)["error"]
    assert (error["file"], error["line"], list(error)) == (str(file), line, ["file", "line", "path", "message", "cure"])
    assert error["path"].startswith(path)
    assert message in error["message"]
    assert cure in error["cure"]
    assert not project.store.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "-f", "nowhere.yaml"], "there is no file"),
        (["run", "b"], "there is no pipeline 'b'"),
        (["run", "--checkpoint", "nowhere.pt", "a"], "there is no checkpoint 'nowhere.pt'"),
        (["run", "--checkpoint", "s4://bucket/a.pt", "a"], "there is no protocol 's4'"),
        (["run", "--store", "s4://bucket/a"], "there is no protocol 's4'"),
        (["run", "--timeout", "0"], "--timeout"),
        (["run", "--nonsense"], "--nonsense"),
        (["rnu"], "'rnu'"),
    ],
)
def test_wrong_usage_ends_with_2(
    project: Project,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (project.folder / "pipelines.yaml").write_text(HEAD + ONNX)
    monkeypatch.chdir(project.folder)
    assert cli.run(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert message in told.err
    assert "Traceback" not in told.err
    assert cli.run(["--json", *arguments]) == 2
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert message in json.loads(out)["error"]["message"]
    assert not project.store.exists()


def test_a_wrong_place_for_the_locks_of_the_host_ends_with_2(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.folder / "pipelines.yaml").write_text(HEAD + ONNX)
    monkeypatch.setenv("TRTFLOW_LOCKS", "nowhere")
    assert cli.run(["run", "-f", str(project.folder / "pipelines.yaml")]) == 2
    assert capsys.readouterr().err.startswith("trtflow: TRTFLOW_LOCKS: 'nowhere' is no folder")
    assert not project.store.exists()


def test_exit_code_is_that_of_the_process(project: Project) -> None:
    project.write(a={"model": {"onnx": "modle.onnx"}})
    said = project.execute("run", "--json")
    assert said.code == 2
    assert json.loads(said.stdout)["error"]["path"] == "pipelines.a.model.onnx"


def test_several_pipelines_with_mistakes_are_told_at_once(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    file = project.folder / "pipelines.yaml"
    file.write_text(f"{HEAD}  a: {{model: {{onnx: one.onnx}}}}\n  b: {{model: {{onnx: two.onnx}}}}\n")
    assert cli.run(["run", "-f", str(file)]) == 2
    told = capsys.readouterr().err
    assert "'one.onnx'" in told
    assert "'two.onnx'" in told
