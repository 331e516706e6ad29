"""Which values of which weights become zero, on graphs small enough to count by hand."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, NodeProto, helper, numpy_helper

from tasks.core.errors import StepError
from tasks.sources.onnx_prune import PruneMetrics, PruneRequest, prune_graph
from tests.projects import graph, value

HALF = 0.5
# Of four values in this order, the first and the third are the smallest.
FOUR = np.array([1, -4, 2, 3], np.float32)


def pruned(
    model: ModelProto, tmp_path: Path, pattern: Literal["2:4"] | None = "2:4", sparsity: float | None = None
) -> tuple[PruneMetrics, dict[str, "np.ndarray[Any, Any]"]]:
    source, folder = tmp_path / "source", tmp_path / "pruned"
    for place in (source, folder):
        place.mkdir()
    onnx.save(model, source / "model.onnx")
    request = PruneRequest(model=source / "model.onnx", pattern=pattern, sparsity=sparsity, folder=folder)
    metrics = prune_graph(request)
    made = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(made, full_check=True)
    return metrics, {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}


def one(node: NodeProto, shapes: tuple[list[int], list[int]], **weights: "np.ndarray[Any, Any]") -> ModelProto:
    taken, given = shapes
    return graph([node], [value("x", taken)], [value("y", given)], **weights)


def along(axis: int, shape: tuple[int, ...]) -> "np.ndarray[Any, Any]":
    """Repeat the four values along one axis."""
    rows = np.broadcast_to(np.tile(FOUR, shape[axis] // 4), (*shape[:axis], *shape[axis + 1 :], shape[axis]))
    return np.moveaxis(rows, -1, axis).copy()


def expected(axis: int, shape: tuple[int, ...]) -> "np.ndarray[Any, Any]":
    return np.where(np.isin(along(axis, shape), (1, 2)), np.float32(0), along(axis, shape))


# Of each operator: its attributes, the shapes of input and output, that of the weight and the axis that it reduces.
CASES: dict[str, tuple[str, dict[str, Any], list[int], list[int], tuple[int, ...], int]] = {
    "conv": ("Conv", {}, [1, 8, 4, 4], [1, 3, 2, 2], (3, 8, 3, 3), 1),
    "conv in groups": ("Conv", {"group": 2}, [1, 8, 4, 4], [1, 6, 2, 2], (6, 4, 3, 3), 1),
    "conv of one axis": ("Conv", {}, [1, 4, 5], [1, 3, 3], (3, 4, 3), 1),
    "transposed conv": ("ConvTranspose", {}, [1, 8, 2, 2], [1, 3, 4, 4], (8, 3, 3, 3), 0),
    "transposed conv in groups": ("ConvTranspose", {"group": 2}, [1, 8, 2, 2], [1, 6, 4, 4], (8, 3, 3, 3), 0),
    "matmul": ("MatMul", {}, [2, 8], [2, 3], (8, 3), 0),
    "batched matmul": ("MatMul", {}, [5, 2, 4], [5, 2, 3], (5, 4, 3), 1),
    "gemm": ("Gemm", {}, [2, 4], [2, 3], (4, 3), 0),
    "gemm of a transposed weight": ("Gemm", {"transB": 1}, [2, 4], [2, 3], (3, 4), 1),
}


@pytest.mark.parametrize("case", CASES)
def test_of_every_four_values_that_one_sum_takes_the_two_smallest_become_zero(case: str, tmp_path: Path) -> None:
    operator, attributes, taken, given, shape, axis = CASES[case]
    node = helper.make_node(operator, ["x", "w"], ["y"], **attributes)
    metrics, weights = pruned(one(node, (taken, given), w=along(axis, shape)), tmp_path)
    assert np.array_equal(weights["w"], expected(axis, shape))
    assert (metrics.pruned, metrics.left_dense) == (("w",), {})
    assert (metrics.zeros_in_pruned, metrics.zeros_overall) == (HALF, HALF)


@pytest.mark.parametrize(
    ("operator", "attributes", "shape", "axis"),
    [("MatMul", {}, (3, 4), 1), ("Gemm", {}, (3, 4), 1), ("Gemm", {"transA": 1}, (4, 3), 0)],
)
def test_a_weight_may_stand_on_the_left(
    operator: str, attributes: dict[str, Any], shape: tuple[int, ...], axis: int, tmp_path: Path
) -> None:
    node = helper.make_node(operator, ["w", "x"], ["y"], **attributes)
    _, weights = pruned(one(node, ([4, 2], [3, 2]), w=along(axis, shape)), tmp_path)
    assert np.array_equal(weights["w"], expected(axis, shape))


def test_of_equal_magnitudes_the_first_become_zero(tmp_path: Path) -> None:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)
    ties = np.array([[2, -2, 2, -2], [3, 1, 1, 1]], np.float32)
    _, weights = pruned(one(node, ([1, 4], [1, 2]), w=ties), tmp_path)
    assert weights["w"].tolist() == [[0, 0, 2, -2], [3, 0, 0, 1]]


def test_an_axis_that_is_no_multiple_of_four_is_left_dense_and_told(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "stem"], ["h"]),
        helper.make_node("Conv", ["h", "depthwise"], ["d"], group=8),
        helper.make_node("Conv", ["d", "body"], ["y"]),
    ]
    weights = {"stem": along(0, (8, 3, 1, 1)), "depthwise": along(0, (8, 1, 1, 1)), "body": along(1, (3, 8, 1, 1))}
    model = graph(nodes, [value("x", [1, 3, 2, 2])], [value("y", [1, 3, 2, 2])], **weights)
    metrics, found = pruned(model, tmp_path)
    assert metrics.pruned == ("body",)
    assert metrics.left_dense == {
        "depthwise": "a sum along its axis 1 takes 1 values, no multiple of 4",
        "stem": "a sum along its axis 1 takes 3 values, no multiple of 4",
    }
    assert np.array_equal(found["stem"], weights["stem"])
    assert np.array_equal(found["depthwise"], weights["depthwise"])
    assert metrics.zeros_in_pruned == HALF
    assert metrics.zeros_overall == 12 / (24 + 8 + 24)


def test_four_values_do_not_reach_over_the_groups_of_a_transposed_conv(tmp_path: Path) -> None:
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], group=2)
    with pytest.raises(StepError, match="a sum along its axis 0 takes 2 values, no multiple of 4"):
        pruned(one(node, ([1, 4, 2, 2], [1, 2, 2, 2]), w=along(0, (4, 1, 1, 1))), tmp_path)


@pytest.mark.parametrize(("share", "zeros"), [(0.5, {1, 2, 3, 4}), (0.3, {1, 2}), (0.875, {1, 2, 3, 4, 5, 6, 7})])
def test_a_share_of_each_tensor_becomes_zero(share: float, zeros: set[int], tmp_path: Path) -> None:
    weight = np.array([[8, -1, 3, 5], [2, -4, 7, -6]], np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    metrics, weights = pruned(one(node, ([1, 2], [1, 4]), w=weight), tmp_path, pattern=None, sparsity=share)
    assert np.array_equal(weights["w"], np.where(np.isin(np.abs(weight), list(zeros)), 0, weight))
    assert metrics.zeros_in_pruned == len(zeros) / 8


def test_a_share_counts_decimals_as_they_are_written(tmp_path: Path) -> None:
    weight = np.arange(1, 101, dtype=np.float32).reshape(10, 10)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    metrics, _ = pruned(one(node, ([1, 10], [1, 10]), w=weight), tmp_path, pattern=None, sparsity=0.29)
    assert metrics.zeros_in_pruned == 0.29


def test_a_share_of_less_than_one_value_is_left_dense(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "small"], ["h"]), helper.make_node("MatMul", ["h", "large"], ["y"])]
    weights = {"small": np.ones((1, 2), np.float32), "large": np.ones((2, 10), np.float32)}
    model = graph(nodes, [value("x", [1, 1])], [value("y", [1, 10])], **weights)
    metrics, found = pruned(model, tmp_path, pattern=None, sparsity=0.1)
    assert metrics.left_dense == {"small": "a share of 0.1 of its 2 values is not one"}
    assert found["large"].tolist() == [[0, 0, 1, 1, 1, 1, 1, 1, 1, 1], [1] * 10]


def shared(nodes: list[NodeProto], **weights: "np.ndarray[Any, Any]") -> ModelProto:
    return graph(nodes, [value("x", [4, 4])], [value("y", [4, 4])], **weights)


def test_a_weight_that_nodes_share_is_pruned_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("Gemm", ["h", "t"], ["y"], transB=1),
    ]
    metrics, weights = pruned(shared(nodes, w=along(0, (4, 4))), tmp_path)
    assert np.array_equal(weights["w"], expected(0, (4, 4)))
    assert metrics.zeros_overall == HALF


def test_a_weight_that_nodes_reduce_along_different_axes_is_left_dense_by_a_pattern(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Gemm", ["h", "w"], ["y"], transB=1)]
    with pytest.raises(StepError, match="nodes share it that reduce along its axes 0 and 1"):
        pruned(shared(nodes, w=along(0, (4, 4))), tmp_path)
    (tmp_path / "again").mkdir()
    metrics, _ = pruned(shared(nodes, w=along(0, (4, 4))), tmp_path / "again", pattern=None, sparsity=HALF)
    assert metrics.zeros_overall == HALF


def test_a_table_that_is_also_looked_up_is_left_dense(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "index"], ["h"]),
        helper.make_node("Gemm", ["h", "table"], ["a"], transB=1),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
        helper.make_node("MatMul", ["x", "b"], ["y"]),
    ]
    arrays = {"table": along(1, (4, 4)), "w": along(0, (4, 4)), "index": np.arange(4)}
    metrics, weights = pruned(shared(nodes, **arrays), tmp_path)
    assert metrics.left_dense == {"table": "it is read by Gather"}
    assert np.array_equal(weights["table"], arrays["table"])
    assert np.array_equal(weights["w"], expected(0, (4, 4)))


def test_a_weight_is_found_behind_a_transpose_that_was_not_folded(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("Identity", ["t"], ["same"]),
        helper.make_node("MatMul", ["x", "same"], ["y"]),
    ]
    _, weights = pruned(shared(nodes, w=along(1, (4, 4))), tmp_path)
    assert np.array_equal(weights["w"], expected(1, (4, 4)))


def test_a_weight_is_found_in_a_branch(tmp_path: Path) -> None:
    def branch(operator: str, *inputs: str) -> onnx.GraphProto:
        output = f"{operator}_y"
        return helper.make_graph([helper.make_node(operator, inputs, [output])], operator, [], [value(output, [4, 4])])

    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
        helper.make_node("Greater", ["most", "zero"], ["positive"]),
        helper.make_node(
            "If", ["positive"], ["y"], then_branch=branch("MatMul", "x", "w"), else_branch=branch("Relu", "x")
        ),
    ]
    metrics, _ = pruned(shared(nodes, w=along(0, (4, 4)), zero=np.zeros((), np.float32)), tmp_path)
    assert metrics.pruned == ("w",)


def test_a_graph_in_which_nothing_can_be_pruned_is_refused(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    with pytest.raises(StepError, match=r"prune changed nothing.* w: it is read by Add") as told:
        pruned(shared([node], w=along(0, (4, 4))), tmp_path)
    assert "take `prune` out of this precision" in told.value.cure
    assert not list((tmp_path / "pruned").iterdir())


def test_a_graph_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="the graph has no weights"):
        pruned(shared([helper.make_node("Relu", ["x"], ["y"])]), tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16"])
def test_weights_of_other_floating_point_types_keep_them(dtype: str, tmp_path: Path) -> None:
    import ml_dtypes

    kind = np.dtype(ml_dtypes.bfloat16) if dtype == "bfloat16" else np.dtype(dtype)
    element = helper.np_dtype_to_tensor_dtype(kind)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    weight = along(0, (4, 4)).astype(kind)
    model = graph([node], [value("x", [4, 4], element)], [value("y", [4, 4], element)], w=weight)
    _, weights = pruned(model, tmp_path)
    assert weights["w"].dtype == kind
    assert np.array_equal(weights["w"], expected(0, (4, 4)).astype(kind))


def external(folder: Path) -> Path:
    """Write a graph of two weights, the first of which lies in a file beside it."""
    folder.mkdir()
    nodes = [helper.make_node("MatMul", ["x", "far"], ["h"]), helper.make_node("MatMul", ["h", "near"], ["y"])]
    model = shared(nodes, far=along(0, (4, 4)), near=along(0, (4, 4)))
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], "weights.bin")
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_weights_beside_the_model_may_have_a_second_name(tmp_path: Path) -> None:
    source = external(tmp_path / "source")
    (tmp_path / "second.bin").hardlink_to(source.parent / "weights.bin")  # as the store gives it from step to step
    (tmp_path / "pruned").mkdir()
    request = PruneRequest(model=source, pattern="2:4", sparsity=None, folder=tmp_path / "pruned")
    assert prune_graph(request).pruned == ("far", "near")


def test_weights_beside_the_model_stay_beside_it_and_the_source_is_untouched(tmp_path: Path) -> None:
    source = external(tmp_path / "source")
    before = {path.name: path.read_bytes() for path in source.parent.iterdir()}
    (tmp_path / "pruned").mkdir()
    metrics = prune_graph(PruneRequest(model=source, pattern="2:4", sparsity=None, folder=tmp_path / "pruned"))
    assert {path.name: path.read_bytes() for path in source.parent.iterdir()} == before
    assert metrics.facts.external_files == ("model.onnx.data",)
    assert sorted(path.name for path in (tmp_path / "pruned").iterdir()) == ["model.onnx", "model.onnx.data"]
    stored = onnx.load(tmp_path / "pruned" / "model.onnx", load_external_data=False).graph.initializer
    assert [bool(tensor.external_data) for tensor in stored] == [True, False]
    session = ort.InferenceSession(tmp_path / "pruned" / "model.onnx", providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": np.eye(4, dtype=np.float32)})
    assert np.array_equal(y, expected(0, (4, 4)) @ expected(0, (4, 4)))


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    source = external(tmp_path / "source")
    made = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        prune_graph(PruneRequest(model=source, pattern=None, sparsity=HALF, folder=folder))
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1]
