"""A graph that is brought to an older opset computes the same, bit for bit, or is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tasks.core.errors import CannotRun
from tasks.core.metrics import compare, worst
from tasks.core.tensors import Tensors
from tasks.runtimes.opset.lower import lower_opset
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tests.projects import graph, value

OPSET, IR = 17, 8
FEEDS: Tensors = {"x": np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)}
AXES = np.array([1, 2], np.int64)
NODES: dict[str, list[onnx.NodeProto]] = {
    "axes of a reduction": [helper.make_node("ReduceMean", ["x", "axes"], ["y"], keepdims=1)],
    "all axes": [helper.make_node("ReduceMax", ["x"], ["y"], keepdims=1)],
    "a split into equal parts": [
        helper.make_node("Split", ["x"], ["a", "b"], num_outputs=2, axis=1),
        helper.make_node("Sub", ["a", "b"], ["y"]),
    ],
    "a saturating cast": [
        helper.make_node("Cast", ["x"], ["half"], to=onnx.TensorProto.FLOAT16, saturate=1),
        helper.make_node("Cast", ["half"], ["y"], to=onnx.TensorProto.FLOAT),
    ],
    "Q/DQ": [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], saturate=1),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ],
}


def model(nodes: list[onnx.NodeProto]) -> onnx.ModelProto:
    scale, zero = np.asarray(0.02, np.float32), np.asarray(0, np.int8)
    used = {name for node in nodes for name in node.input}
    weights = {name: array for name, array in (("axes", AXES), ("scale", scale), ("zero", zero)) if name in used}
    return graph(nodes, [value("x", [2, 6, 8])], [value("y", [f"d{axis}" for axis in range(3)])], **weights)


def outputs(made: onnx.ModelProto, path: Path) -> Tensors:
    onnx.save(made, path)
    return run_unoptimised(path, [FEEDS])[0]


@pytest.mark.parametrize("what", NODES)
def test_an_older_opset_computes_the_same(what: str, tmp_path: Path) -> None:
    newer = model(NODES[what])
    expected = outputs(newer, tmp_path / "newer.onnx")
    older = lower_opset(newer, OPSET, IR)
    assert (older.opset_import[0].version, older.ir_version) == (OPSET, IR)
    np.testing.assert_array_equal(outputs(older, tmp_path / "older.onnx")["y"], expected["y"])


def test_gelu_is_spelt_out(tmp_path: Path) -> None:
    newer = model([helper.make_node("Gelu", ["x"], ["y"])])
    expected = outputs(newer, tmp_path / "newer.onnx")
    older = lower_opset(newer, OPSET, IR)
    assert "Gelu" not in {node.op_type for node in older.graph.node}
    actual = outputs(older, tmp_path / "older.onnx")
    assert worst(compare(actual, expected).values()).max_abs_error < 1e-6


def test_what_is_old_enough_stays_as_it_is() -> None:
    old = model([helper.make_node("Relu", ["x"], ["y"])])
    old.opset_import[0].version = 15
    before = old.graph.SerializeToString(deterministic=True)
    assert lower_opset(old, OPSET, IR).graph.SerializeToString(deterministic=True) == before
    assert old.opset_import[0].version == 15


@pytest.mark.parametrize(
    ("node", "says"),
    [
        (helper.make_node("BitwiseNot", ["x"], ["y"], name="flip"), "BitwiseNot .'flip'. is not in the opset"),
        (helper.make_node("Gelu", ["x"], ["y"], approximate="tanh"), "approximate"),
        (helper.make_node("Cast", ["x"], ["y"], to=17, saturate=0), "saturate = 0"),
    ],
)
def test_what_the_older_opset_cannot_say_is_refused(node: onnx.NodeProto, says: str) -> None:
    with pytest.raises(CannotRun, match=says):
        lower_opset(model([node]), OPSET, IR)


def test_a_shape_of_some_axes_is_a_slice_of_all(tmp_path: Path) -> None:
    """TensorRT 8.6 reads such a Shape, passes over its bounds, and so gives it as many numbers as there are axes."""
    every: list[dict[str, Any]] = [
        {"start": 1, "end": 2},
        {"start": -2},
        {"end": -1},
        {"start": 0},
        {"start": 2, "end": 9},
    ]
    for bounds in every:
        newer = graph([helper.make_node("Shape", ["x"], ["y"], **bounds)], [value("x", [2, 6, 8])], [sizes()])
        expected = outputs(newer, tmp_path / "newer.onnx")
        older = lower_opset(newer, OPSET, IR)
        assert not [node for node in older.graph.node if node.op_type == "Shape" and node.attribute]
        np.testing.assert_array_equal(outputs(older, tmp_path / "older.onnx")["y"], expected["y"])


def test_a_kernel_behind_its_pairs_is_told_by_the_node(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"]),
        helper.make_node("Conv", ["x", "dq"], ["y"]),
    ]
    weights: dict[str, Any] = {
        "w": np.full((4, 6, 3), 0.1, np.float32),
        "scale": np.asarray(0.02, np.float32),
        "zero": np.asarray(0, np.int8),
    }
    newer = graph(nodes, [value("x", [2, 6, 8])], [value("y", ["n", 4, 6])], **weights)
    expected = outputs(newer, tmp_path / "newer.onnx")
    older = lower_opset(newer, OPSET, IR)
    (kernel,) = [attribute.ints for node in older.graph.node for attribute in node.attribute]
    assert list(kernel) == [3]
    np.testing.assert_array_equal(outputs(older, tmp_path / "older.onnx")["y"], expected["y"])


def sizes() -> onnx.ValueInfoProto:
    return value("y", ["n"], onnx.TensorProto.INT64)
