"""Workers that crash or hang, signals, a full disk and a read-only store: told, and nothing is left behind."""

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.projects import INT64, QUICK, Finished, Project, graph, linear, value, wait_until

pytestmark = pytest.mark.slow

MODULE = """\
import ctypes, os, subprocess, sys, tempfile, time
import numpy as np

def slowly(what):
    if os.path.exists("slow"):
        subprocess.Popen(["sleep", "1000"], start_new_session=True)
        while True:  # a worker that is still writing when it is stopped
            tempfile.mkstemp()

def data():
    slowly("data")
    yield {"x": np.ones((4, 4), "float32")}, {"label": np.zeros(4)}

def metric(outputs, targets, reference):
    slowly("metric")
    return 1.0

def sound(): yield {"x": np.ones((4, 4), "float32")}, {"label": np.zeros(4)}
def hangs_in_native_code(): ctypes.PyDLL(None).sleep(1000)
def segfault(): ctypes.string_at(0)

def leaves_a_child():
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    time.sleep(1000)
"""
FAULTS = {
    "hangs_in_native_code": ("gave no answer within 3 s; it was stopped", "raise the timeout"),
    "leaves_a_child": ("gave no answer within 3 s; it was stopped", "raise the timeout"),
    "segfault": ("was killed by SIGSEGV", "native code crashed"),
}
BASE: dict[str, Any] = {
    **QUICK,
    "model": {"onnx": "model.onnx"},
    "dims": {"batch": {"min": 1, "opt": 4, "max": 8}},
}
SLOW_DATA = {**BASE, "data": {"calibration": {"source": "zoo:sound"}, "evaluation": {"source": "zoo:data"}}}
SLOW_METRIC = {**BASE, "data": {"evaluation": {"source": "zoo:sound", "metric": {"function": "zoo:metric"}}}}
LONG_BENCHMARK = {**BASE, "benchmark": {"seconds": 600, "baselines": False}}


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    onnx.save(linear("batch"), folder / "model.onnx")
    (folder / "zoo.py").write_text(MODULE)
    return Project(folder)


def test_worker_that_crashes_or_hangs_fails_its_pipeline_only(project: Project) -> None:
    sources = {name: {**BASE, "data": {"calibration": {"source": f"zoo:{name}"}}} for name in FAULTS}
    project.write(**sources, sound=BASE)
    ran = project.run("run", "--json", "--timeout", "3")
    assert ran.code == 1
    for name, (message, cure) in FAULTS.items():
        assert (ran.runs[name].status, ran.status(name, "data")) == ("failed", "failed")
        assert message in ran.engine(name).reason
        assert cure in ran.engine(name).reason
    assert ran.engine("sound").status == "passed"


def _at_work(project: Project, step: str) -> bool:
    """Whether the step's folder is there: it is about to start its worker, or has."""
    return any(path.is_dir() for path in (project.store / "a" / step).glob(".*.partial"))


def _interrupt(project: Project, step: str, number: signal.Signals) -> Finished:
    process = project.start("run", "--json")
    wait_until(lambda: _at_work(project, step), process)
    if step in ("data", "evaluate"):
        wait_until(lambda: bool(list(project.store.glob(f"a/{step}/.*.partial/scratch/tmp*"))), process)
    os.killpg(process.pid, number)
    return project.finish(process)


@pytest.mark.parametrize(
    ("step", "number", "pipeline"),
    [
        ("inspect", signal.SIGINT, BASE),
        ("data", signal.SIGTERM, SLOW_DATA),
        ("evaluate", signal.SIGINT, SLOW_METRIC),
        ("benchmark", signal.SIGTERM, LONG_BENCHMARK),
    ],
    ids=lambda value: getattr(value, "name", value if isinstance(value, str) else ""),
)
def test_interrupted_run_leaves_nothing_and_is_finished_by_the_next(
    project: Project, step: str, number: signal.Signals, pipeline: dict[str, Any]
) -> None:
    project.write(a=pipeline, b=BASE)
    (project.folder / "slow").touch()
    ran = _interrupt(project, step, number)
    assert ran.code == 128 + number
    assert {name: run.status for name, run in ran.runs.items()} == {"a": "interrupted"}
    assert ran.runs["a"].promoted is None
    assert project.record("a").outcome.status == "interrupted"
    assert f"interrupted by {number.name}" in ran.stderr
    done = {found.step for found in ran.runs["a"].steps if found.status == "done"}

    (project.folder / "slow").unlink()
    project.write(a={**pipeline, "benchmark": QUICK["benchmark"]})
    again = project.run("run", "--json")
    assert (again.code, again.runs["a"].status) == (0, "passed")
    assert done - {"judge"} <= {found.step for found in again.runs["a"].steps if found.cached}


def _endless() -> onnx.ModelProto:
    """Make a model that stays in native code for ever."""
    states = [value("i", [], INT64), value("go", [], TensorProto.BOOL), value("a", [2])]
    outputs = [value("still", [], TensorProto.BOOL), value("b", [2])]
    nodes = [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Cos", ["a"], ["b"])]
    body = helper.make_graph(nodes, "body", states, outputs)
    loop = helper.make_node("Loop", ["often", "true", "x"], ["y"], body=body)
    ends = {"often": np.array(2**60), "true": np.array([True]).reshape(())}
    return graph([loop], [value("x", [2])], [value("y", [2])], **ends)


def test_interrupt_ends_a_step_in_native_code(project: Project) -> None:
    onnx.save(_endless(), project.folder / "endless.onnx")
    project.write(a={"model": {"onnx": "endless.onnx"}, **QUICK})
    ran = _interrupt(project, "export", signal.SIGTERM)
    assert (ran.code, ran.runs["a"].status, ran.status("a", "export")) == (143, "interrupted", "failed")


def _waits(process: "subprocess.Popen[str]", folder: Path) -> bool:
    """Whether the process has a lock in the folder open, which another one holds."""
    for link in Path(f"/proc/{process.pid}/fd").glob("*"):
        with contextlib.suppress(OSError):  # closed by now
            target = link.readlink()
            if target.parent == folder and target.suffix == ".lock":
                return True
    return False


def test_run_that_waits_for_another_can_be_interrupted(project: Project) -> None:
    project.write(a=SLOW_DATA)
    (project.folder / "slow").touch()
    first = project.start("run", "--json")
    wait_until(lambda: _at_work(project, "data"), first)
    second = project.start("run", "--json")
    try:
        wait_until(lambda: _waits(second, project.store / "a/data"), second)
        second.send_signal(signal.SIGINT)
        out, err = second.communicate(timeout=30)
    finally:
        second.kill()
        os.killpg(first.pid, signal.SIGTERM)
        ended = project.finish(first)
    assert second.returncode == 130, err
    assert Finished(130, out, err).runs["a"].status == "interrupted"
    assert ended.code == 143


def _mounted(script: str) -> tuple[str, ...]:
    """Run a command in a mount namespace of its own, after `script`; mounts end with it."""
    if (
        not shutil.which("unshare")
        or subprocess.run(
            ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "tmpfs", "/mnt"],
            check=False,
            capture_output=True,
        ).returncode
    ):
        pytest.skip("this host lets no test mount a file system (unshare --mount --map-root-user)")
    return "unshare", "--mount", "--map-root-user", "sh", "-c", f'{script} && exec "$@"', "sh"


def test_read_only_store_is_told(project: Project) -> None:
    read_only = _mounted("mount --bind artifacts artifacts && mount -o remount,bind,ro artifacts")
    project.write(a=BASE)
    assert project.run("run").code == 0
    before = {path: path.stat().st_mtime_ns for path in project.store.rglob("*")}
    project.write(a=BASE, b=SLOW_METRIC)
    ran = project.run("run", "--json", before=read_only)
    assert ran.code == 1
    for name in ("a", "b"):
        assert ran.runs[name].status == "failed"
        assert f"cannot write the store at {project.store}: Read-only file system" in ran.engine(name).reason
        assert "choose another place with --store" in ran.engine(name).reason
    for command in (["rollback", "a"], ["gc"]):
        said = project.run(*command, before=read_only)
        assert (said.code, said.stdout) == (1, ""), command
        assert "the file system is read-only" in said.stderr
    assert project.run("plan", before=read_only).code == 0
    assert before == {path: path.stat().st_mtime_ns for path in project.store.rglob("*")}


def _wide(folder: Path) -> dict[str, Any]:
    """A pipeline with 1 MiB of weights, of which each of export, fold and build keeps a copy."""
    weights = np.full((256, 1024), 0.01, np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    model = graph([node], [value("x", [1, 256])], [value("y", [1, 1024])], w=weights)
    onnx.save(model, folder / "wide.onnx")
    return {**QUICK, "model": {"onnx": "wide.onnx"}}


# Size of the disk, and the step that it is too small for.
@pytest.mark.parametrize(("size", "step"), [("1M", "export"), ("2700k", "build")])
def test_full_disk_is_told_and_a_run_with_more_space_goes_on(project: Project, size: str, step: str) -> None:
    mounted = _mounted(f"mkdir -p artifacts && mount -t tmpfs -o size={size} tmpfs artifacts")
    left = 'find artifacts -name ".*.partial" -o -name "*.lock" -o -name scratch'
    grown = "mount -o remount,size=20M artifacts"
    script = f'"$@" && exit; code=$?; {left} > left; {grown} && "$@" > again || exit; exit $code'
    project.write(a=_wide(project.folder))
    ran = project.run("run", "--json", before=(*mounted, "sh", "-c", script, "sh"))
    assert (ran.code, ran.runs["a"].status, ran.status("a", step)) == (1, "failed", "failed"), ran.stderr
    reason = ran.engine("a").reason
    assert "disk full" in reason or "No space left on device" in reason
    assert "free some space" in reason
    assert (project.folder / "left").read_text() == ""
    again = Finished(0, (project.folder / "again").read_text(), "").runs["a"]
    assert again.status == "passed"
    done = {found.step for found in ran.runs["a"].steps if found.status == "done"}
    assert done - {"judge"} <= {found.step for found in again.steps if found.cached}


def test_disk_without_any_space_is_told(project: Project) -> None:
    mounted = _mounted("mkdir -p artifacts && mount -t tmpfs -o size=16k tmpfs artifacts")
    project.write(a=BASE)
    ran = project.run("run", "--json", before=mounted)
    assert (ran.code, ran.runs["a"].status) == (1, "failed")
    assert "free some space" in ran.engine("a").reason
