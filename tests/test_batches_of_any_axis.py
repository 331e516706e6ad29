"""Whole runs of models whose batch does not lie first everywhere, and of a benchmark that cannot measure all points."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tests.projects import QUICK, Finished, Project, graph, value

MODULE = """\
import numpy as np

def evaluation():
    rng = np.random.default_rng(0)
    for _ in range(4):
        x, h = rng.standard_normal((4, 5, 3)), rng.standard_normal((2, 4, 3))
        feeds = {"x": x.astype("float32"), "h": h.astype("float32"), "scale": np.array(2, "float32")}
        yield feeds, {"state": np.moveaxis(2 * feeds["h"], 1, 0)}

def metric(outputs, targets, reference):
    assert outputs["y"].shape == (10, 3), outputs["y"].shape
    assert outputs["state"].shape == (2, 10, 3), outputs["state"].shape
    return float(np.allclose(np.moveaxis(outputs["state"], 1, 0), targets["state"], atol=1e-6))
"""
BATCH = {"batch": {"min": 1, "opt": 4, "max": 8}}


def _stateful() -> onnx.ModelProto:
    """A sum over time and a state, whose batch lies on axis 1; a scale has none, and `h` has axes without names."""
    nodes = [
        helper.make_node("ReduceSum", ["x", "time"], ["summed"], keepdims=0),
        helper.make_node("Gather", ["h", "last"], ["own"], axis=0),
        helper.make_node("Add", ["summed", "own"], ["y"]),
        helper.make_node("Mul", ["h", "scale"], ["state"]),
    ]
    inputs = [value("x", ["N", 5, 3]), value("h", [2, -1, 3]), value("scale", [])]
    outputs = [value("y", ["N", 3]), value("state", [2, "N", 3])]
    return graph(nodes, inputs, outputs, time=np.array([1]), last=np.array(1))


def _refusing_six() -> onnx.ModelProto:
    """A model that runs at every size but six, where an index lies outside."""
    places = np.zeros(13, np.int64)
    places[6] = 99
    nodes = [
        helper.make_node("Shape", ["x"], ["size"]),
        helper.make_node("Gather", ["places", "size"], ["place"]),
        helper.make_node("Gather", ["values", "place"], ["offset"]),
        helper.make_node("Add", ["x", "offset"], ["y"]),
    ]
    return graph(nodes, [value("x", ["n"])], [value("y", ["n"])], places=places, values=np.ones(2, np.float32))


def _input(*shape: int | str) -> dict[str, Any]:
    return {"dtype": "float32", "shape": list(shape)}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("batches") / "project"
    folder.mkdir()
    onnx.save(_stateful(), folder / "stateful.onnx")
    onnx.save(_refusing_six(), folder / "six.onnx")
    (folder / "zoo.py").write_text(MODULE)
    evaluation = {"source": "zoo:evaluation", "samples": 10, "metric": {"function": "zoo:metric"}}
    six = {"model": {"onnx": "six.onnx"}, "dims": {"n": {"min": 4, "opt": 8, "max": 12}}, **QUICK}
    project = Project(folder)
    project.write(
        stateful={
            "model": {"onnx": "stateful.onnx"},
            "inputs": {"x": _input("batch", 5, 3), "h": _input(2, "batch", 3)},
            "dims": BATCH,
            "data": {"evaluation": evaluation},
            **QUICK,
            "benchmark": {**QUICK["benchmark"], "at": [{"batch": 3}]},
        },
        some={**six, "benchmark": {**QUICK["benchmark"], "at": [{"n": 6}, {"n": 8}]}},
        none={**six, "benchmark": {**QUICK["benchmark"], "at": [{"n": 6}]}},
    )
    return project.run("run", "--json")


def test_a_state_is_cut_along_its_batch(ran: Finished) -> None:
    engine = ran.engine("stateful")
    assert engine.status == "passed", engine.reason
    assert engine.metric == 1.0
    (latency,) = engine.latency
    assert latency.at == {"batch": 3}


def test_a_point_that_the_data_cannot_reach_is_skipped_with_the_reason(ran: Finished) -> None:
    engine = ran.engine("some")
    assert engine.status == "passed", engine.reason
    assert [point.at for point in engine.latency] == [{"n": 8}]
    (told,) = [line for line in ran.stderr.splitlines() if line.startswith("some: ") and "not measured" in line]
    assert "note: not measured at n = 6: onnxruntime/fp32 refuses its inputs: running the engine failed" in told
    assert "idx=99 must be within" in told


def test_a_benchmark_without_any_point_fails_with_the_reason(ran: Finished) -> None:
    assert ran.runs["none"].status == "failed"
    assert "no point could be measured" not in ran.stderr  # it fails as it opens, with the engine's own reason
    (told,) = [line for line in ran.stderr.splitlines() if line.startswith("none: ") and "idx=99" in line]
    assert "tasks." not in told
    assert ran.engine("none").status == "passed"
