"""Files, modules and functions that a config names are looked for without importing anything."""

import os
import sys
from pathlib import Path

import pytest

from tasks.core.defined_names import defined_names
from tasks.core.errors import ConfigError
from tasks.core.names import check_names
from tasks.core.yaml_source import load_config

ROOT = Path(__file__).resolve().parents[2]
MODULE = "raise RuntimeError('imported')\ndef build(): ...\ndef calibration(): ...\ndef evaluation(): ...\ntop1 = len\n"
PIPELINE = """\
version: 1
pipelines:
  digits:
    model: {torch: "zoo.digits:build", checkpoint: zoo/digits.safetensors}
    inputs: {image: {dtype: float32, shape: [1, 8]}}
    data:
      calibration: {source: "zoo.digits:calibration"}
      evaluation:
        source: data.npz
        metric: {function: "zoo.digits:top1"}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a folder in which everything that PIPELINE names is there."""
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo/digits.py").write_text(MODULE)
    (tmp_path / "zoo/digits.safetensors").write_bytes(b"weights")
    (tmp_path / "data.npz").write_bytes(b"data")
    return tmp_path


def check(project: Path, text: str = PIPELINE) -> None:
    file = project / "pipelines.yaml"
    file.write_text(text)
    check_names(load_config(file), file)


def error_of(project: Path, text: str = PIPELINE) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        check(project, text)
    return caught.value


def model_of(reference: str) -> str:
    pipeline = f"{{model: {{torch: '{reference}'}}, inputs: {{x: {{dtype: int8, shape: [1]}}}}}}"
    return f"version: 1\npipelines: {{a: {pipeline}}}\n"


def test_everything_is_found_and_nothing_imported(project: Path) -> None:
    check(project)
    assert "zoo" not in sys.modules


def test_path_of_the_yaml_may_be_relative(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(project)
    monkeypatch.chdir(project)
    check_names(load_config(Path("pipelines.yaml")), Path("pipelines.yaml"))


@pytest.mark.parametrize(
    "mistake",
    [
        ("digits.safetensors", "digit.safetensors", 4, "model.checkpoint", "no file 'zoo/digit.saf", "'digits.safe"),
        ("zoo/digits.safetensors", "zoo", 4, "model.checkpoint", "'zoo' is a folder, expected a file", "relative to"),
        ("zoo/digits.safetensors", "data.npz/x", 4, "model.checkpoint", "there is no file 'data.npz/x'", "relative"),
        ("zoo/digits.safetensors", "x" * 300, 4, "model.checkpoint", "cannot be read: File name too long", "relative"),
        ("data.npz", "date.npz", 9, "data.evaluation.source", "there is no file 'date.npz'", "mean 'data.npz'?"),
        (":build", ":biuld", 4, "model.torch", "digits.py defines no 'biuld'", "did you mean 'build'?"),
        (":top1", ":top5", 10, "data.evaluation.metric.function", "defines no 'top5'", "did you mean 'top1'?"),
        (":calibration", ":calib", 7, "data.calibration.source", "defines no 'calib'", "valid here: build"),
        ("zoo.digits:build", "zoo.digit:build", 4, "model.torch", "no module 'zoo.digit' below", "mean 'digits'?"),
        ("zoo.digits:build", "zooo.digits:build", 4, "model.torch", "no module 'zooo.digits' in", "mean 'zoo'?"),
        ("zoo.digits:build", "zoo:build", 4, "model.torch", "there is no module 'zoo'", "installed"),
        ("zoo.digits:build", f"{'x' * 300}:build", 4, "model.torch", "there is no module", "installed"),
        ("zoo.digits:build", "__main__:build", 4, "model.torch", "there is no module '__main__'", "installed"),
    ],
)
def test_what_is_not_there_is_told(project: Path, mistake: tuple[str, str, int, str, str, str]) -> None:
    old, new, line, path, message, cure = mistake
    error = error_of(project, PIPELINE.replace(old, new))
    assert (error.where.file, error.where.line) == (str(project / "pipelines.yaml"), line)
    assert error.where.path == f"pipelines.digits.{path}"
    assert message in error.message
    assert cure in error.cure


def test_everything_that_is_missing_is_told_at_once(project: Path) -> None:
    error = error_of(project, PIPELINE.replace(":build", ":biuld").replace("data.npz", "other.npz"))
    assert error.where.line == 4
    assert "line 9 pipelines.digits.data.evaluation.source: there is no file 'other.npz'" in error.message


def test_onnx_file_must_be_there(project: Path) -> None:
    text = "version: 1\npipelines: {tiny: {model: {onnx: model.onnx}}}\n"
    assert error_of(project, text).where.path == "pipelines.tiny.model.onnx"
    (project / "model.onnx").write_bytes(b"onnx")
    check(project, text)


def test_pipe_is_no_file(project: Path) -> None:
    os.mkfifo(project / "model.onnx")
    error = error_of(project, "version: 1\npipelines: {tiny: {model: {onnx: model.onnx}}}\n")
    assert "'model.onnx' is a device, pipe or socket, expected a file" in error.message


def test_package_beside_the_yaml_is_searched_before_a_module(project: Path) -> None:
    (project / "zoo/__init__.py").write_text("from zoo.digits import build\n")
    check(project, model_of("zoo:build"))
    assert "zoo/__init__.py defines no 'top1'" in error_of(project, model_of("zoo:top1")).message


def test_installed_module_is_taken_without_a_look_inside(project: Path) -> None:
    check(project, model_of("json.decoder:anything"))


def test_folder_without_code_gives_way_to_an_installed_package(project: Path) -> None:
    (project / "json").mkdir()
    check(project, model_of("json.decoder:anything"))
    (project / "json/__init__.py").touch()
    assert "there is no module 'json.decoder' below" in error_of(project, model_of("json.decoder:anything")).message


def test_compiled_module_may_define_anything(project: Path) -> None:
    (project / "native.abi3.so").write_bytes(b"\x7fELF")
    check(project, model_of("native:build"))


@pytest.mark.parametrize("source", ["def build(:\n", "x = '\0'\n", "(" * 500])
def test_module_that_is_not_python_is_told(project: Path, source: str) -> None:
    (project / "zoo/digits.py").write_text(source)
    message = error_of(project, model_of("zoo.digits:build")).message
    assert "zoo/digits.py, line" in message
    assert "is not Python" in message


@pytest.mark.parametrize("made", ["flows.py", "tasks/__init__.py", "tasks/train.py"])
def test_own_flows_or_tasks_is_a_named_error(project: Path, made: str) -> None:
    (project / made).parent.mkdir(exist_ok=True)
    (project / made).touch()
    error = error_of(project)
    assert "has the name of a package of trtflow" in error.message
    assert error.where.file == str(project / "pipelines.yaml")


def test_folder_called_tasks_without_code_is_fine(project: Path) -> None:
    (project / "tasks").mkdir()
    check(project)


def test_trtflow_may_have_its_own_flows_and_tasks(project: Path) -> None:
    check(project)
    config = load_config(project / "pipelines.yaml")
    with pytest.raises(ConfigError) as caught:
        check_names(config, ROOT / "not-there.yaml")
    assert "has the name of a package" not in caught.value.message


@pytest.mark.parametrize(
    "source",
    [
        "def build(): ...",
        "async def build(): ...",
        "class build: ...",
        "build = 1",
        "other, (build, *rest) = make()",
        "build: int = 1",
        "import build",
        "import build.inner",
        "import other as build",
        "from other import build",
        "from other import x as build",
        "if x:\n    pass\nelif y:\n    def build(): ...",
        "try:\n    import other\nexcept ImportError:\n    build = None",
        "try:\n    pass\nfinally:\n    build = 1",
        "for build in x: pass",
        "with x as build: pass",
        "while (build := next(x)): pass",
        "def make():\n    global build\n    build = 1",
        "from other import *",
        "def __getattr__(name): ...",
        "globals()['bu' + 'ild'] = 1",
        "x = '\\d'\ndef build(): ...",
        "# -*- coding: latin-1 -*-\nx = '\xe9'\ndef build(): ...",
    ],
)
def test_name_may_be_defined_in_any_way(source: str) -> None:
    names = defined_names(source.encode("latin-1"))
    assert names is None or "build" in names


@pytest.mark.parametrize(
    "source",
    [
        "",
        "build",
        "build: int",
        "def make():\n    build = 1",
        "class Make:\n    def build(self): ...",
        "x = [build for build in y]",
        "x = lambda build: build",
        "import other.build",
        "x.build = 1",
        "x = " + "+".join(["build"] * 900),
    ],
)
def test_name_that_is_not_defined_is_not_found(source: str) -> None:
    names = defined_names(source.encode())
    assert names is not None
    assert "build" not in names
