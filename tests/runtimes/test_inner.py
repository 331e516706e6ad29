"""Inner tensors are read as they are, a few at a time."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.core.tensors import Tensors
from tasks.runtimes.inner import SLICE_BYTES, InnerGraph, in_slices
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tests.projects import graph, linear, value

BATCHES: list[Tensors] = [
    {"x": np.array([[1, -2, 3, 4], [5, 6, -7, 8]], np.float32)},
    {"x": np.array([[0, 0.5, -1, 2]], np.float32)},
]


def kinds() -> onnx.ModelProto:
    """Tensors of all kinds, and an output that a node leaves out."""
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["a"]),
        helper.make_node("Shape", ["a"], ["shape"]),
        helper.make_node("Cast", ["a"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["a"], ["brain"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", ["half"], ["double"], to=TensorProto.DOUBLE),
        helper.make_node("Dropout", ["a"], ["kept", ""]),
        helper.make_node("Greater", ["a", "kept"], ["greater"]),
        helper.make_node("Cast", ["double"], ["y"], to=TensorProto.FLOAT),
    ]
    weights = np.full((1, 4), 0.5, np.float32)
    return graph(nodes, [value("x", ["batch", 4])], [value("y", ["batch", 4])], w=weights)


def saved(model: onnx.ModelProto, folder: Path) -> Path:
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_names_are_the_floats_that_nodes_make_in_their_order(tmp_path: Path) -> None:
    inner = InnerGraph(saved(kinds(), tmp_path), tmp_path / "scratch")
    assert inner.names() == ["a", "half", "double", "kept", "y"]


def test_only_what_is_asked_for_comes_of_every_batch(tmp_path: Path) -> None:
    inner = InnerGraph(saved(kinds(), tmp_path), tmp_path / "scratch")
    read = list(inner.run(["half", "a"], BATCHES))
    assert [list(batch) for batch in read] == [["half", "a"]] * 2
    for given, batch in zip(BATCHES, read, strict=True):
        np.testing.assert_array_equal(batch["a"], np.multiply(given["x"], 0.5))
        assert batch["half"].dtype == np.float16


def test_names_may_be_asked_for_again_and_in_any_order(tmp_path: Path) -> None:
    inner = InnerGraph(saved(kinds(), tmp_path), tmp_path / "scratch")
    (first,) = inner.run(["y"], BATCHES[:1])
    assert inner.names()[-1] == "y"
    (again,) = inner.run(["y", "a"], BATCHES[:1])
    np.testing.assert_array_equal(first["y"], again["y"])


def test_an_output_is_what_the_judge_computes(tmp_path: Path) -> None:
    model = saved(linear("batch"), tmp_path)
    (read,) = InnerGraph(model, tmp_path / "scratch").run(["y"], BATCHES[:1])
    np.testing.assert_array_equal(read["y"], run_unoptimised(model, BATCHES[:1])[0]["y"])


def test_external_data_is_read_where_it_lies(tmp_path: Path) -> None:
    path, plain = tmp_path / "model.onnx", linear("batch")
    onnx.save(plain, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = (tmp_path / "weights.bin").read_bytes()
    inner = InnerGraph(path, tmp_path / "scratch")
    (read,) = inner.run(inner.names(), BATCHES[:1])
    np.testing.assert_array_equal(read["y"], run_unoptimised(path, BATCHES[:1])[0]["y"])
    assert (tmp_path / "weights.bin").read_bytes() == before
    assert (tmp_path / "weights.bin").stat().st_nlink == 1  # another name would change what the store knows it by
    assert [path.name for path in (tmp_path / "scratch").iterdir()] == ["inner.onnx"]


def test_large_weights_are_written_once_and_not_into_each_graph(tmp_path: Path) -> None:
    w = np.arange(4 << 17, dtype=np.float32).reshape(4, -1)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = graph(nodes, [value("x", ["batch", 4])], [value("y", ["batch", w.shape[1]])], w=w)
    path, scratch = saved(model, tmp_path), tmp_path / "scratch"
    inner = InnerGraph(path, scratch)
    (read,) = inner.run(["y"], BATCHES[:1])
    np.testing.assert_array_equal(read["y"], run_unoptimised(path, BATCHES[:1])[0]["y"])
    assert (scratch / "inner.onnx").stat().st_size < 1000
    assert sum(file.stat().st_size for file in scratch.iterdir()) < w.nbytes + 1000


def test_a_branch_still_sees_what_is_made_outside_it(tmp_path: Path) -> None:
    arms = [
        helper.make_graph([helper.make_node(kind, ["a"], [kind])], kind, [], [value(kind, ["batch", 4])])
        for kind in ("Neg", "Abs")
    ]
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("If", ["yes"], ["y"], then_branch=arms[0], else_branch=arms[1]),
    ]
    model = graph(nodes, [value("x", ["batch", 4])], [value("y", ["batch", 4])], yes=np.array(True))  # noqa: FBT003 -- an array
    inner = InnerGraph(saved(model, tmp_path), tmp_path / "scratch")
    assert inner.names() == ["a", "y"]
    (read,) = inner.run(["y"], BATCHES[:1])
    np.testing.assert_array_equal(read["y"], -np.maximum(BATCHES[0]["x"], 0))


@pytest.mark.parametrize("size", [1, 1 << 20, 5 << 20, 64 << 20, SLICE_BYTES, 3 * SLICE_BYTES])
def test_slices_hold_every_name_once_and_stay_within_the_bound(size: int) -> None:
    names, slices = [f"t{index}" for index in range(300)], list[list[str]]()

    def run(names: Sequence[str]) -> int:
        slices.append(list(names))
        return size

    in_slices(names, run)
    assert [name for part in slices for name in part] == names
    # How large tensors are is known after the first slice.
    assert all(len(part) == 1 or len(part) * size <= SLICE_BYTES for part in slices[1:])
    assert len(slices[0]) <= 4


def test_slices_shrink_as_soon_as_a_tensor_is_larger() -> None:
    lengths: list[int] = []

    def run(names: Sequence[str]) -> int:
        lengths.append(len(names))
        return SLICE_BYTES // 2 if len(lengths) == 3 else 1000

    in_slices([str(index) for index in range(100)], run)
    assert lengths[:4] == [4, 16, 64, 2]
    assert set(lengths[3:]) == {2}


def test_no_names_are_no_slices() -> None:
    in_slices([], lambda names: pytest.fail(f"asked for {names}"))
