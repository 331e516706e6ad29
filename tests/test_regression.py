"""No engine takes the place of the promoted one that is slower or scores less than the YAML allows."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tasks.core.promotions import Promotions
from tests.projects import Finished, Project, graph, value

pytestmark = pytest.mark.slow

MODULE = """\
import numpy as np

def data():
    x = np.linspace(-1, 1, 4 * 96, dtype="float32").reshape(4, 96)
    yield {"x": x}, {"y": x}

def nearness(outputs, targets, reference):
    return 1 - float(np.abs(outputs["y"] - targets["y"]).max())
"""
PIPELINE: dict[str, Any] = {
    "model": {"onnx": "model.onnx"},
    "data": {"evaluation": {"source": "zoo:data", "metric": {"function": "zoo:nearness"}}},
    "precisions": ["fp32"],
    "benchmark": {"seconds": 0.2, "baselines": False},
}
GATED = {**PIPELINE, "gates": {"latency_regression": 1.0, "metric_regression": 0.01}}
ID = "onnxruntime/fp32"
PROMOTED = "promoted before: onnxruntime/fp32"


def chain(length: int, scale: float = 1.0) -> onnx.ModelProto:
    """Multiply by the identity again and again: y is x times `scale`, and takes its time."""
    names = ["x", *(f"h{index}" for index in range(length - 1)), "y"]
    nodes = []
    for index, (taken, given) in enumerate(itertools.pairwise(names)):
        nodes.append(helper.make_node("MatMul", [taken, "w" if index else "first"], [f"m{index}"]))
        nodes.append(helper.make_node("Neg", [f"m{index}"], [given]))  # keeps the products apart
    sign = np.float32(1 if length % 2 == 0 else -1)
    weights = {"w": np.eye(96, dtype=np.float32), "first": np.eye(96, dtype=np.float32) * np.float32(scale) * sign}
    return graph(nodes, [value("x", [4, 96])], [value("y", [4, 96])], **weights)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "zoo.py").write_text(MODULE)
    made = Project(folder)
    made.write(net=GATED)
    return made


def convert(project: Project, model: onnx.ModelProto, *arguments: str) -> Finished:
    onnx.save(model, project.folder / "model.onnx")
    return project.run("run", "--json", *arguments)


def in_force(project: Project) -> str:
    current = Promotions(project.store, "net").state().current
    return current.key if current else ""


def test_a_slower_engine_fails_and_what_was_promoted_stays(project: Project) -> None:
    assert convert(project, chain(2)).code == 0
    promoted = in_force(project)
    done = convert(project, chain(40))
    engine = done.engine("net")
    assert (done.code, engine.status) == (1, "failed")
    assert engine.reason.startswith("latency_regression: the median latency is ")
    assert f"that of the promoted {ID}, 2 is allowed" in engine.reason
    assert done.runs["net"].promoted is None
    assert in_force(project) == promoted


def test_an_engine_as_fast_takes_over_and_nothing_is_measured_twice(project: Project) -> None:
    assert convert(project, chain(4)).code == 0
    before = in_force(project)
    done = convert(project, chain(4, scale=1.001))
    assert done.code == 0, done.stderr
    assert in_force(project) != before
    again = project.run("run", "--json").runs["net"]
    assert [step.step for step in again.steps if not step.cached] == ["promote"]
    report = project.store.glob("net/benchmark/*/report.json")
    assert any(PROMOTED in path.read_text() for path in report)


def test_an_engine_that_scores_less_fails(project: Project) -> None:
    assert convert(project, chain(2)).code == 0
    promoted = in_force(project)
    done = convert(project, chain(2, scale=0.9))
    assert done.code == 1
    assert "metric_regression: 0.9 against 1 of the promoted" in done.engine("net").reason
    assert in_force(project) == promoted
    assert convert(project, chain(2, scale=0.995)).code == 0


def test_a_gate_that_cannot_be_decided_lets_nothing_pass(project: Project) -> None:
    assert convert(project, chain(2)).code == 0
    promoted = in_force(project)
    shutil.rmtree(project.artifact("net", "build"))
    done = convert(project, chain(2, scale=1.001))
    assert done.code == 1
    assert "latency_regression cannot be decided against the promoted" in done.engine("net").reason
    assert "report.json cannot be read" in done.engine("net").reason
    assert in_force(project) == promoted
    project.write(net=PIPELINE)
    assert project.run("run").code == 0
    assert in_force(project) != promoted


def test_another_result_that_is_slower_passes_and_is_not_promoted(project: Project) -> None:
    """A run is not to fail because fp32 is slower than the promoted fp16."""
    project.write(net={**GATED, "engines": [{"runtime": "onnxruntime", "name": "fast"}]})
    assert convert(project, chain(2)).code == 0
    promoted = in_force(project)
    project.write(net={**GATED, "engines": [{"runtime": "onnxruntime", "name": "slow"}]})
    done = convert(project, chain(40))
    engine = done.engine("net", "slow/fp32")
    assert (done.code, engine.status) == (1, "passed")
    assert "not to be promoted: latency_regression: " in engine.reason
    assert "nothing may take the place of what is promoted: slow/fp32: latency_regression" in done.stderr
    assert in_force(project) == promoted


def test_a_metric_gate_needs_a_metric(project: Project) -> None:
    project.write(net={**GATED, "data": {}})
    done = convert(project, chain(2))
    assert done.code == 2
    assert "'metric_regression' has no metric to compare" in done.stdout
