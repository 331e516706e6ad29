"""A trial with switches, and the graph that is written, compute the same bit for bit."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tasks.core.errors import StepError
from tasks.core.tensors import Tensors, load_batches, save_batches
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tasks.sources.onnx_repair import SETS, ApplyRequest, RepairOpening, RepairTurn, apply_repair, try_repairs
from tests.projects import graph, value


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker has a scratch folder for temporary files."""
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))


def pair(name: str, source: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", [source, f"{name}_s", "zero"], [f"{name}_q"], name=f"{name}_quantize"),
        helper.make_node(
            "DequantizeLinear", [f"{name}_q", f"{name}_s", "zero"], [f"{name}_d"], name=f"{name}_dequantize"
        ),
    ]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two products with a pair in front of every input, and an Add that reads the output of one of those pairs."""
    random = np.random.default_rng(4)
    nodes = [
        *pair("x", "x"),
        *pair("w1", "w1"),
        helper.make_node("MatMul", ["x_d", "w1_d"], ["m1"], name="layer_1"),
        *pair("m1", "m1"),
        *pair("w2", "w2"),
        helper.make_node("MatMul", ["m1_d", "w2_d"], ["m2"], name="layer_2"),
        helper.make_node("Add", ["m2", "m1_d"], ["y"], name="sum"),
    ]
    scales = {f"{name}_s": np.array(0.03, np.float32) for name in ("x", "w1", "m1", "w2")}
    weights = {name: random.normal(size=(4, 4)).astype(np.float32) for name in ("w1", "w2")}
    made = graph(nodes, [value("x", [2, 4])], [value("y", [2, 4])], **scales, **weights, zero=np.array(0, np.int8))
    onnx.checker.check_model(made, full_check=True)
    onnx.save_model(made, tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def golden(folder: Path) -> tuple[Path, Path, list[Tensors]]:
    random = np.random.default_rng(5)
    feeds: list[Tensors] = [{"x": random.normal(size=(2, 4)).astype(np.float32)} for _ in range(2)]
    expected: list[Tensors] = [{"y": batch["x"]} for batch in feeds]
    save_batches(folder / "golden.safetensors", feeds)
    save_batches(folder / "expected.safetensors", expected)
    return folder / "golden.safetensors", folder / "expected.safetensors", feeds


@pytest.mark.parametrize("floated", [(), ("layer_1",), ("layer_2",), ("sum",), ("layer_1", "sum")])
def test_a_trial_is_the_graph_that_is_written(model: Path, tmp_path: Path, floated: tuple[str, ...]) -> None:
    given, expected, feeds = golden(tmp_path)
    talk = try_repairs(RepairOpening(model=model, golden=given, expected=expected))
    assert [(node.name, node.op_type) for node in next(talk).candidates] == [
        ("layer_1", "MatMul"),
        ("layer_2", "MatMul"),
        ("sum", "Add"),
    ]
    outputs = tmp_path / "outputs.safetensors"
    talk.send(RepairTurn(floated=floated, feeds=given, outputs=outputs))
    assert all(talk.send(RepairTurn(floated=floated, on=on)).error is not None for on in SETS)
    (tmp_path / "repaired").mkdir()
    metrics = apply_repair(ApplyRequest(model=model, floated=floated, folder=tmp_path / "repaired"))
    written = run_unoptimised(tmp_path / "repaired" / "model.onnx", feeds)
    for trial, final in zip(load_batches(outputs), written, strict=True):
        assert np.array_equal(trial["y"], final["y"])
    assert sum(metrics.quantized.values()) == 3 - len(floated)


def test_a_graph_in_which_only_an_add_is_left_quantised_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "repaired").mkdir()
    with pytest.raises(StepError, match="nothing is quantised"):
        apply_repair(ApplyRequest(model=model, floated=("layer_1", "layer_2"), folder=tmp_path / "repaired"))
    assert not list((tmp_path / "repaired").iterdir())
