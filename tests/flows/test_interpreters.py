"""Engines of other Pythons: built there, with the versions there in the key, side by side with those of our own."""

import importlib.util
import json
import sysconfig
import venv
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml

from tasks.core.environment import gpu
from tests.commands import Call
from tests.projects import QUICK, Finished, Project, linear

RTX = "tensorrt-rtx"
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra tensorrt-rtx is not installed"
)
BOTH = [{"runtime": "onnxruntime"}, {"runtime": RTX}, {"name": "other", "runtime": RTX, "interpreter": "second"}]


def write(project: Project, interpreters: dict[str, Any], engines: list[dict[str, Any]]) -> None:
    onnx.save(linear(), project.folder / "model.onnx")
    pipelines = {"net": {**QUICK, "model": {"onnx": "model.onnx"}, "engines": engines}}
    document = {"version": 1, "interpreters": interpreters, "pipelines": pipelines}
    (project.folder / "pipelines.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "project").mkdir()
    return Project(tmp_path / "project")


def environment(folder: Path) -> Path:
    """Make another Python, which finds our packages behind its own; returns the folder of those."""
    venv.create(folder, symlinks=True, with_pip=False)
    (found,) = (folder / "lib").glob("python3*/site-packages")
    (found / "ours.pth").write_text(sysconfig.get_path("purelib"))
    return found


@pytest.fixture
def packages(project: Project) -> Path:
    return environment(project.folder / "second")


def built(done: Finished, name: str) -> str:
    engine = done.engine("net", f"{name}/fp32")
    assert engine.status == "built", engine.reason
    assert engine.artifact
    return engine.artifact


@needs_rtx
@pytest.mark.skipif(gpu() is not None, reason="there is a GPU here: the engines run")
def test_engines_of_two_pythons_are_built_in_one_run_and_found_in_the_next(project: Project, packages: Path) -> None:
    (packages / "tensorrt_rtx_cu13-0.1.dist-info").mkdir()
    write(project, {"second": {"python": "second/bin/python"}}, BOTH)
    first = project.run("run", "--json")
    assert first.code == 0, first.stdout + first.stderr
    ours, theirs = built(first, RTX), built(first, "other")
    assert ours != theirs
    report = json.loads((project.store / theirs / "report.json").read_text())
    assert report["recipe"]["tools"] == {"tensorrt-rtx-cu13": "0.1"}
    (call,) = json.loads((project.store / theirs / "request.json").read_text())["calls"]
    assert call["python"] == "${PROJECT}/second/bin/python"

    repeated = json.loads(project.run("repro", theirs, "--json").stdout)["files"]
    assert set(repeated) == {"model.engine", "card.json"}
    assert "missing" not in repeated.values()

    again = project.run("run", "--json")
    assert {step.step for step in again.runs["net"].steps if not step.cached} == {"parity", "promote"}  # none to run
    (packages / "tensorrt_rtx_cu13-0.1.dist-info").rename(packages / "tensorrt_rtx_cu13-0.2.dist-info")
    newer = project.run("run", "--json")
    assert built(newer, RTX) == ours
    assert built(newer, "other") not in (ours, theirs)
    (packages / "tensorrt_rtx_cu13-0.2.dist-info").rmdir()  # what is left is our own version: the same engine
    assert built(project.run("run", "--json"), "other") == ours


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One run with an engine that passes, beside interpreters that are of no use here, each in its own way."""
    project = Project(tmp_path_factory.mktemp("mixed"))
    empty, broken = (environment(project.folder / name) for name in ("empty", "broken"))
    (empty / "ours.pth").unlink()
    (broken / "tensorrt_rtx_cu13-0.1.dist-info").mkdir()
    (broken / "tensorrt_rtx.py").write_text('raise ImportError("libtensorrt_rtx.so: cannot open shared object")\n')
    python = {"python": "broken/bin/python"}
    interpreters = {
        "empty": {"python": "empty/bin/python"},
        "broken": python,
        "absent": {"python": "absent/bin/python"},
        "trt86": python,
        "lean10": {**python, "module": "tensorrt_lean"},
    }
    compatible = {"options": {"version_compatible": True}, "run_on": ["lean10"]}
    engines: list[dict[str, Any]] = [
        {"runtime": "onnxruntime"},
        *({"name": name, "runtime": RTX, "interpreter": name, "optional": True} for name in list(interpreters)[:3]),
        {"name": "trt86", "runtime": "tensorrt", "interpreter": "trt86", **compatible},
    ]
    write(project, interpreters, engines)
    return project.run("run", "--json")


def test_an_interpreter_that_is_of_no_use_leaves_the_others_unharmed(mixed: Finished) -> None:
    assert mixed.code == 0, mixed.stdout + mixed.stderr
    assert mixed.engine("net").status == "passed"


def test_one_without_tensorrt_is_the_error_of_its_engine(mixed: Finished) -> None:
    engine = mixed.engine("net", "empty/fp32")
    assert engine.status == "error"
    assert "the interpreter 'empty' (" in engine.reason
    assert "has no tensorrt_rtx installed" in engine.reason
    assert "/empty/bin/python -m pip install" in engine.reason


def test_one_that_does_not_import_is_the_error_of_its_engine(mixed: Finished) -> None:
    engine = mixed.engine("net", "broken/fp32")
    assert engine.status == "error"
    assert "cannot import 'tensorrt_rtx': ImportError: libtensorrt_rtx.so" in engine.reason


def test_one_that_only_optional_engines_name_may_live_on_another_host(mixed: Finished) -> None:
    skipped = mixed.engine("net", "absent/fp32")
    assert (skipped.status, skipped.artifact) == ("skipped", None)
    assert skipped.reason == "absent is not installed here: see `trtflow doctor`"


@pytest.mark.skipif(gpu() is not None, reason="there is a GPU here")
def test_where_there_is_no_gpu_tensorrt_is_skipped_by_whatever_it_would_be_opened(mixed: Finished) -> None:
    skipped = [engine for engine in mixed.runs["net"].engines if engine.runtime == "tensorrt"]
    assert [(each.id, each.engine, each.status) for each in skipped] == [
        ("trt86/fp32", "trt86", "skipped"),
        ("trt86@lean10/fp32", "trt86@lean10", "skipped"),
    ]
    assert {each.reason for each in skipped} == {"tensorrt builds and runs on an NVIDIA GPU, and there is none here"}


def test_a_python_that_is_not_there_is_found_before_anything_runs(project: Project) -> None:
    write(project, {"second": {"python": "second/bin/python"}}, BOTH)
    done = project.run("run", "--json")
    assert done.code == 2
    error = json.loads(done.stdout)["error"]
    assert (error["line"], error["path"]) == (4, "interpreters.second.python")
    assert error["message"] == "there is no Python at 'second/bin/python'"
    assert not project.store.exists()


def test_a_python_below_nobodys_home_is_told(project: Project, call: Call) -> None:
    write(project, {"second": {"python": "~nobody-of-that-name/bin/python"}}, BOTH)
    said = call(project, "validate")
    assert (said.code, "interpreters.second.python" in said.err, "is no path" in said.err) == (2, True, True)


def test_a_gate_may_name_the_result_of_another_interpreter(project: Project, call: Call) -> None:
    interpreters = {"lean10": {"python": "python", "module": "tensorrt_lean"}}
    engine = {"runtime": "tensorrt", "options": {"version_compatible": True}, "run_on": ["lean10"], "optional": True}
    write(project, interpreters, [engine])
    text = (project.folder / "pipelines.yaml").read_text()
    gates = "    gates: {parity: {tensorrt@lean10/fp32: {rel_l2: 0.001}}}\n"
    (project.folder / "pipelines.yaml").write_text(text + gates)
    assert call(project, "validate").code == 0
    (project.folder / "pipelines.yaml").write_text(text + gates.replace("lean10", "lean11"))
    said = call(project, "validate")
    assert said.code == 2
    assert "did you mean 'tensorrt@lean10/fp32'?" in said.err
