"""Nothing is promoted that did not pass its gates: the run fails, says why, and leaves what is in force in force."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.projects import QUICK, Finished, Project, graph, value

pytestmark = pytest.mark.slow

MODULE = """\
import numpy as np

def data():
    x = np.random.default_rng(0).normal(size=(16, 64)).astype("float32")
    for start in (0, 4, 8, 12):
        yield {"x": x[start : start + 4]}, {"none": np.zeros(4)}

def closeness(outputs, targets, reference):
    return -float(np.abs(outputs["y"] - reference["y"]).max())
"""
SOURCE = {"source": "zoo:data"}
METRIC = {"function": "zoo:closeness"}
# The reference runtime computes in another order than ONNX Runtime: its error is small, and never 0.
BASE: dict[str, Any] = {
    **QUICK,
    "model": {"onnx": "model.onnx"},
    "dims": {"batch": {"min": 1, "opt": 4, "max": 8}},
    "engines": [{"runtime": "onnxruntime"}, {"runtime": "reference"}],
}
OPTIONAL = {"engines": [{"runtime": "onnxruntime"}, {"runtime": "reference", "optional": True}]}
MEASURED = {**BASE, "data": {"evaluation": {**SOURCE, "metric": METRIC}}}
# Each passes as it is here, and with what TIGHTENED adds the engine fails that is named there, with that reason.
PASSING: dict[str, dict[str, Any]] = {"precision": BASE, "id": BASE, "floor": MEASURED, "drop": MEASURED}
ORT, REFERENCE = "onnxruntime/fp32", "reference/fp32"
TIGHTENED: dict[str, tuple[dict[str, Any], str, str]] = {
    "precision": ({"gates": {"parity": {"fp32": {"max_abs_error": 0}}}}, REFERENCE, "parity: max_abs_error"),
    "id": ({"gates": {"parity": {REFERENCE: {"max_abs_error": 0}}}}, REFERENCE, "parity: max_abs_error"),
    "floor": (
        {"data": {"evaluation": {**SOURCE, "metric": {**METRIC, "min": 0.5}}}},
        ORT,
        "the source model itself scores 0, below min 0.5: no engine can pass",
    ),
    "drop": ({"gates": {"metric_drop": 0}}, REFERENCE, "against the source's"),
}


def _promotions(project: Project, pipeline: str) -> dict[str, bytes]:
    files = [*(project.store / pipeline / "promotions").glob("*"), project.store / pipeline / "promoted.json"]
    return {path.name: path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("gates") / "project"
    folder.mkdir()
    nodes = [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Softmax", ["z"], ["y"])]
    weights = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    softmax = graph(nodes, [value("x", ["batch", 64])], [value("y", ["batch", 64])], w=weights)
    onnx.save(softmax, folder / "model.onnx")
    logarithm = graph([helper.make_node("Log", ["x"], ["y"])], [value("x", [4])], [value("y", [4])])
    onnx.save(logarithm, folder / "log.onnx")
    (folder / "zoo.py").write_text(MODULE)
    return Project(folder)


@pytest.fixture(scope="module")
def before(project: Project) -> dict[str, dict[str, bytes]]:
    """Run what passes; gives what is in force then."""
    project.write(**PASSING)
    assert project.run("run", "--json").code == 0
    return {name: _promotions(project, name) for name in PASSING}


@pytest.fixture(scope="module")
def tightened(project: Project, before: dict[str, dict[str, bytes]]) -> Finished:
    assert before
    negative = {"x": {"dtype": "float32", "shape": [4], "range": [-2, -1]}}
    project.write(
        **{name: {**PASSING[name], **more} for name, (more, _, _) in TIGHTENED.items()},
        nan={"model": {"onnx": "log.onnx"}, "inputs": negative, **QUICK},
    )
    return project.run("run", "--json")


@pytest.mark.parametrize("name", TIGHTENED)
def test_failed_gate_fails_the_run_and_leaves_what_is_in_force(
    project: Project, before: dict[str, dict[str, bytes]], tightened: Finished, name: str
) -> None:
    _, failed, reason = TIGHTENED[name]
    run = tightened.runs[name]
    assert (tightened.code, run.status, run.promoted) == (1, "failed", None)
    assert tightened.engine(name, failed).status == "failed"
    assert reason in tightened.engine(name, failed).reason
    assert tightened.status(name, "promote") == "not_reached"
    assert _promotions(project, name) == before[name]


def test_outputs_that_are_not_finite_are_never_promoted(project: Project, tightened: Finished) -> None:
    engine = tightened.engine("nan")
    assert (tightened.runs["nan"].status, engine.status) == ("failed", "error")
    assert "log.onnx itself gives NaN in output 'y'" in engine.reason
    assert not (project.store / "nan" / "promotions").exists()


@pytest.mark.usefixtures("tightened")
def test_optional_engine_may_fail(project: Project) -> None:
    names = ("id", "drop")
    project.write(**{name: {**PASSING[name], **TIGHTENED[name][0], **OPTIONAL} for name in names})
    ran = project.run("run", "--json")
    assert (ran.code, {run.status for run in ran.runs.values()}) == (0, {"passed"})
    for name in names:
        assert ran.engine(name, REFERENCE).status == "failed"
        assert TIGHTENED[name][2] in ran.engine(name, REFERENCE).reason
        promoted = ran.runs[name].promoted
        assert promoted
        assert promoted.id == ORT


def test_engine_that_was_rolled_back_comes_back_only_by_hand(project: Project) -> None:
    engines = [{"runtime": "onnxruntime", "name": f"threads{n}", "options": {"threads": n}} for n in (1, 2)]
    project.write(two={**BASE, "engines": engines})
    first = project.run("run", "--json").runs["two"].promoted
    assert first
    assert project.run("rollback", "two", "--reason", "wrong on Mondays").code == 0
    second = project.run("run", "--json").runs["two"].promoted
    assert second
    assert {first.id, second.id} == {"threads1/fp32", "threads2/fp32"}
    assert project.run("rollback", "two").code == 0

    none_left = project.run("run", "--json")
    assert (none_left.code, none_left.runs["two"].promoted) == (0, None)
    assert {engine.status for engine in none_left.runs["two"].engines} == {"passed"}
    told = "every engine that passed was rolled back before"
    assert told in none_left.stderr
    assert "trtflow promote two ID" in none_left.stderr
    assert any(told in note for note in project.record("two").notes)

    assert project.run("promote", "two", first.id).code == 0
    last = project.run("run", "--json").runs["two"].promoted
    assert last
    assert last.id == first.id


def test_engine_that_did_not_pass_is_not_promoted_by_hand(project: Project, tightened: Finished) -> None:
    assert tightened.engine("nan").status == "error"
    project.write(nan={"model": {"onnx": "log.onnx"}, **QUICK})
    said = project.run("promote", "nan", "onnxruntime/fp32")
    assert said.code == 1
    assert "onnxruntime/fp32 did not pass" in said.stderr
