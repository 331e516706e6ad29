"""Precisions through the whole DAG: made, judged, repaired, refused, built and not run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tasks.core.outcome import EngineOutcome, RunOutcome
from tests.projects import QUICK, Project, graph, value

pytestmark = pytest.mark.slow

METRIC = """
import numpy as np

def top1(outputs, targets, reference):
    return float(np.mean(outputs["y"].argmax(-1) == reference["y"].argmax(-1)))
"""
REPAIR = {"until": {"rel_l2": 0.02, "metric_drop": 0.02}, "budget": "60s"}
PRECISIONS = [
    "fp32",
    "bf16",
    {"int8": {"name": "plain", "optional": True}},
    {"int8": {"repair": REPAIR}},
    {"int8": {"name": "out-of-reach", "repair": {"until": {"rel_l2": 0.0}}, "optional": True}},
    {"int8": {"name": "late", "repair": {"until": {"rel_l2": 0.0}, "budget": "0.001s"}, "optional": True}},
    {"fp32": {"name": "sparse", "prune": {"pattern": "2:4"}, "optional": True}},
    {"int4": {"method": "rtn", "optional": True}},
]


def net() -> onnx.ModelProto:
    """A stem, and two blocks that add to it. The stem has an outlier that takes int8's range for itself."""
    random = np.random.default_rng(1)
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["s"], name="stem", pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["s", "spike"], ["h0"], name="spike"),
        helper.make_node("Conv", ["h0", "w1"], ["c1"], name="block_1_conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["h1"], name="block_1_relu"),
        helper.make_node("Conv", ["h1", "w2"], ["c2"], name="block_2_conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["h2"], name="block_2_relu"),
        helper.make_node("GlobalAveragePool", ["h2"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "head"], ["y"], name="head"),
    ]
    spike = np.ones((1, 16, 1, 1), np.float32)
    spike[0, 3] = 60.0
    weights: dict[str, Any] = {
        name: random.normal(size=(16, 16, 3, 3)).astype(np.float32) / 12 for name in ("stem", "w1", "w2")
    }
    weights["w1"][:, 3] /= 60.0
    weights |= {"spike": spike, "head": random.normal(size=(16, 10)).astype(np.float32)}
    return graph(nodes, [value("x", ["batch", 16, 8, 8])], [value("y", ["batch", 10])], **weights)


def pipeline(**changes: object) -> dict[str, object]:
    return {
        "model": {"onnx": "model.onnx"},
        "dims": {"batch": {"min": 1, "opt": 8, "max": 16}},
        "data": {
            "calibration": {"source": "calibration.npz", "samples": 32},
            "evaluation": {"source": "evaluation.npz", "metric": {"function": "scores:top1"}},
        },
        **QUICK,
        **changes,
    }


def prepare(folder: Path, model: onnx.ModelProto) -> Project:
    project = Project(folder)
    onnx.save_model(model, folder / "model.onnx")
    (folder / "scores.py").write_text(METRIC)
    random = np.random.default_rng(2)
    for name in ("calibration", "evaluation"):
        np.savez(folder / f"{name}.npz", x=random.normal(size=(32, 16, 8, 8)).astype(np.float32))
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    made = prepare(tmp_path_factory.mktemp("precisions"), net())
    made.write(net=pipeline(precisions=PRECISIONS))
    return made


@pytest.fixture(scope="module")
def run(project: Project) -> RunOutcome:
    finished = project.run("run", "--json")
    assert finished.code == 0, finished.stderr
    return finished.runs["net"]


def engine(run: RunOutcome, name: str) -> EngineOutcome:
    return next(found for found in run.engines if found.precision == name)


def metrics(project: Project, step: str, subject: str) -> dict[str, Any]:
    reports = [json.loads(path.read_text()) for path in (project.store / "net" / step).glob("[!.]*/report.json")]
    (found,) = (report["metrics"] for report in reports if report["subject"] in subject.split("|"))
    assert isinstance(found, dict)
    return found


def test_a_precision_without_kernels_here_is_built_and_not_run(run: RunOutcome) -> None:
    found = engine(run, "bf16")
    assert found.status == "built"
    assert found.reason.startswith("built, not run: onnxruntime has no CPU kernel for ")
    assert found.artifact is not None
    assert found.artifact.startswith("net/quantize/")
    assert found.size_bytes
    assert found.latency == ()


def test_the_repair_floats_what_is_needed_and_says_so(run: RunOutcome, project: Project) -> None:
    plain, repaired = engine(run, "plain"), engine(run, "int8")
    assert plain.parity is not None
    assert repaired.parity is not None
    assert repaired.status == "passed", repaired.reason
    assert plain.parity.vs_source.rel_l2 > 0.02 >= repaired.parity.precision_cost.rel_l2
    report = metrics(project, "repair", "int8")["repair"]
    assert 0 < len(report["floated"]) < report["quantized_nodes"]
    assert {error["rel_l2"] <= 0.02 for error in report["after"].values()} == {True}
    assert report["metric_after"] >= 0.98
    assert report["curve"][0]["floated"] == 0
    assert report["trials"] >= 2
    note = next(note for note in project.record("net").notes if "repair floated" in note)
    assert f"of {report['quantized_nodes']} nodes: rel_l2 " in note
    assert "latency at batch 8" in note


def test_the_repaired_graph_computes_what_the_trial_did(project: Project, run: RunOutcome) -> None:
    repaired = engine(run, "int8")
    assert repaired.parity is not None
    after = metrics(project, "repair", "int8")["repair"]["after"]
    # Parity is the worst of both golden sets laid side by side, a trial that of each alone.
    worst, best = max(error["rel_l2"] for error in after.values()), min(error["rel_l2"] for error in after.values())
    assert best * 0.999 <= repaired.parity.precision_cost.rel_l2 <= worst * 1.001


def test_a_repair_that_would_float_all_is_refused(run: RunOutcome) -> None:
    found = engine(run, "out-of-reach")
    assert found.status == "error"
    assert "only with every convolution and matrix product in float" in found.reason


def test_a_repair_that_runs_out_of_time_names_the_best_that_it_found(run: RunOutcome) -> None:
    found = engine(run, "late")
    assert found.status == "error"
    assert "the repair did not reach its goal (rel_l2 0) in its time: with " in found.reason


def test_pruning_has_a_hop_of_its_own(run: RunOutcome, project: Project) -> None:
    found = engine(run, "sparse")
    hops = metrics(project, "parity", "onnxruntime/sparse")["hops"]
    assert hops["prune"]["worst"]["rel_l2"] > 0.05
    assert hops["precision_cost"]["worst"]["rel_l2"] == 0
    assert found.parity is not None
    assert found.parity.vs_source.rel_l2 == pytest.approx(hops["prune"]["worst"]["rel_l2"], rel=1e-3)
    assert metrics(project, "prune", "sparse")["zeros_in_pruned"] == pytest.approx(0.5)


def test_calibration_is_reported(project: Project, run: RunOutcome) -> None:
    assert run.status == "passed"
    found = metrics(project, "calibrate", "plain|int8|out-of-reach|late")
    assert (found["samples_asked"], found["samples"], found["samples_also_in_evaluation"]) == (32, 32, 0)
    assert (found["outliers"], found["unsettled"], found["clipped_share"]) == ([], [], 0)
    (ranges,) = {path.read_text() for path in (project.store / "net" / "calibrate").glob("[!.]*/ranges.json")}
    spiked = next(tensor for tensor in json.loads(ranges)["tensors"] if tensor["name"] == "h0")
    assert spiked["consumers"] == ["block_1_conv"]
    assert spiked["bound"] == pytest.approx(max(-spiked["minimum"], spiked["maximum"]), rel=0.01)


def test_an_unchanged_rerun_computes_nothing(project: Project, run: RunOutcome) -> None:
    assert run.status == "passed"
    finished = project.run("run", "--json")
    again = finished.runs["net"]
    failed = {step.step for step in again.steps if step.status == "failed"}
    assert failed == {"repair"}  # the one that is out of reach: an error is no artifact
    assert {step.step for step in again.steps if step.status == "done" and not step.cached} == {"promote"}
    assert [found.status for found in again.engines] == [found.status for found in run.engines]


def test_data_that_is_no_good_for_calibration_is_told(tmp_path: Path) -> None:
    project = prepare(tmp_path, net())
    arrays = np.load(tmp_path / "calibration.npz")["x"]
    arrays[31, 0, 0, 0] = 500.0
    arrays[6] = arrays[5]
    np.savez(tmp_path / "calibration.npz", x=arrays)
    np.savez(tmp_path / "evaluation.npz", x=np.concatenate([arrays[2:6], np.load(tmp_path / "evaluation.npz")["x"]]))
    project.write(net=pipeline(precisions=["int8"]))
    project.run("run", "--json")
    found = metrics(project, "calibrate", "int8")
    assert found["samples_also_in_evaluation"] == 5
    assert found["outliers"][0] == "x"
    assert "x" in found["unsettled"]
    notes = "\n".join(project.record("net").notes)
    assert "int8: 5 of 32 calibration samples are also in the evaluation data" in notes
    assert "int8: outliers decide the range of 'x'" in notes
    assert "differ between the halves of the 32 samples: calibrate with more" in notes


def test_default_precisions_that_do_not_apply_are_skipped(tmp_path: Path) -> None:
    """Nobody wrote `precisions`: no error with a cure for a key that is not there."""
    double = onnx.TensorProto.DOUBLE
    ends = [value("x", [2, 4], double)], [value("y", [2, 4], double)]
    onnx.save(graph([helper.make_node("Add", ["x", "b"], ["y"])], *ends, b=np.ones(4)), tmp_path / "model.onnx")
    np.savez(tmp_path / "calibration.npz", x=np.ones((4, 4)))
    project = Project(tmp_path)
    engines, data = [{"runtime": "onnxruntime"}], {"calibration": {"source": "calibration.npz"}}
    project.write(
        p={"model": {"onnx": "model.onnx"}, "engines": engines, "data": data, "benchmark": QUICK["benchmark"]}
    )
    finished = project.run("run", "--json")
    assert finished.code == 0, finished.stderr
    found = {engine.precision: engine for engine in finished.runs["p"].engines}
    assert {name: engine.status for name, engine in found.items()} == {
        "fp32": "passed",
        "fp16": "skipped",
        "int8": "skipped",
    }
    assert found["int8"].reason == "the graph takes, gives or holds fp64, and int8 is made from fp32 only"


def test_a_graph_with_pairs_of_its_own_is_taken_as_it_is(project: Project, run: RunOutcome, tmp_path: Path) -> None:
    """What quantisation-aware training exports: here, the quantised graph of the run before."""
    assert run.status == "passed"
    reports = (project.store / "net" / "quantize").glob("[!.]*/report.json")
    # Several precisions share one graph: whichever came first gave it its name.
    eight = [path.parent for path in reports if json.loads(path.read_text())["metrics"]["quantized"].get("Conv")]
    (folder,) = eight
    other = prepare(tmp_path, onnx.load(folder / "model.onnx"))
    loose = {"gates": {"parity": {"typed": {"rel_l2": 0.01}}}}
    other.write(qat=pipeline(**loose) | {"precisions": None}, again=pipeline(precisions=["int8"]))
    text = (tmp_path / "pipelines.yaml").read_text().replace("    precisions: null\n", "")
    (tmp_path / "pipelines.yaml").write_text(text)
    finished = other.run("run", "--json")
    typed = finished.engine("qat", "onnxruntime/typed")
    assert typed.status == "passed", typed.reason
    assert [found.precision for found in finished.runs["qat"].engines] == ["typed"]
    refused = finished.engine("again", "onnxruntime/int8")
    assert refused.status == "error"
    assert "holds Q/DQ nodes already" in refused.reason


def test_calibration_data_that_shows_nothing_is_told(tmp_path: Path) -> None:
    project = prepare(tmp_path, net())
    np.savez(tmp_path / "calibration.npz", x=np.zeros((1, 16, 8, 8), np.float32))
    changed = pipeline(precisions=["fp32", {"int8": {"optional": True}}])
    data: Any = changed["data"]
    data["calibration"] = {"source": "calibration.npz"}
    project.write(net=changed)
    project.run("run", "--json")
    notes = "\n".join(project.record("net").notes)
    assert "int8: calibrated with a single sample" in notes
    assert "are zero in all calibration samples" in notes
    assert "differ between the halves" not in notes


def test_how_much_of_a_graph_is_in_the_precision_is_told(run: RunOutcome, project: Project) -> None:
    assert run.status == "passed"
    notes = "\n".join(project.record("net").notes)
    assert "nodes that multiply (MatMul, Conv and the like) run in it, the rest in fp32" in notes


def test_a_plain_graph_is_not_typed_and_a_quantised_one_is_not_fp32(project: Project, tmp_path: Path) -> None:
    folders = [path.parent for path in (project.store / "net" / "quantize").glob("[!.]*/report.json")]
    (eight,) = [
        path for path in folders if json.loads((path / "report.json").read_text())["metrics"]["quantized"].get("Conv")
    ]
    other = prepare(tmp_path, net())
    onnx.save_model(onnx.load(eight / "model.onnx"), tmp_path / "eight.onnx")
    other.write(plain=pipeline(precisions=["typed"]), eight=pipeline(precisions=["fp32"], model={"onnx": "eight.onnx"}))
    finished = other.run("run", "--json")
    assert "no precision of its own" in finished.engine("plain", "onnxruntime/typed").reason
    assert "holds Q/DQ nodes: it is no fp32" in finished.engine("eight").reason


QAT = """
import numpy as np
import torch


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(8, 32), torch.nn.Linear(32, 4)

    def forward(self, x):
        near = torch.fake_quantize_per_tensor_affine
        hidden = torch.relu(
            torch.nn.functional.linear(
                near(x, 0.03, 0, -128, 127), near(self.first.weight, 0.01, 0, -128, 127), self.first.bias
            )
        )
        weight = near(self.second.weight, 0.01, 0, -128, 127)
        return torch.nn.functional.linear(near(hidden, 0.05, 0, -128, 127), weight, self.second.bias)


def samples(seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, 64)
    return (np.eye(8)[labels] * 2 + random.normal(0, 0.3, (64, 8))).astype(np.float32), labels


def build():
    torch.manual_seed(0)
    net, (x, labels) = Net(), map(torch.from_numpy, samples(1))
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(40):  # the gradient passes straight through the rounding
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(x), labels).backward()
        optimizer.step()
    return net


def evaluation():
    x, labels = samples(2)
    yield {"x": x}, {"label": labels}


def top1(outputs, targets, reference):
    return float(np.mean(outputs["y"].argmax(-1) == targets["label"]))
"""


def test_a_net_trained_with_quantisation_in_mind_keeps_the_pairs_that_it_was_trained_with(tmp_path: Path) -> None:
    (tmp_path / "qat.py").write_text(QAT)
    project = Project(tmp_path)
    evaluation = {"source": "qat:evaluation", "metric": {"function": "qat:top1", "min": 0.95}}
    project.write(
        net={
            "model": {"torch": "qat:build"},
            "inputs": {"x": {"dtype": "float32", "shape": ["batch", 8]}},
            "dims": {"batch": {"min": 1, "opt": 8, "max": 64}},
            "outputs": ["y"],
            "data": {"evaluation": evaluation},
            "export": {
                "exporter": "torchscript"
            },  # torch 2.13's own cannot follow fake quantisation with a dynamic dim
            **QUICK,
            "precisions": ["typed", {"fp32": {"optional": True}}],
        }
    )
    finished = project.run("run", "--json")
    typed = finished.engine("net", "onnxruntime/typed")
    assert typed.status == "passed", typed.reason
    made = metrics(project, "quantize", "typed")
    assert (made["quantized"], made["quantize_nodes"]) == ({"Gemm": 2}, 4)  # both weights and both activations
    assert "holds Q/DQ nodes: it is no fp32" in finished.engine("net").reason
