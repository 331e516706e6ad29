"""A graph that is brought to an older opset computes the same, bit for bit, or is refused."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tasks.core.errors import CannotRun
from tasks.core.metrics import compare, worst
from tasks.core.tensors import Tensors
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tasks.runtimes.opset.lower import lower_opset
from tests.projects import graph, value

OPSET, IR = 17, 8
FEEDS: Tensors = {"x": np.random.default_rng(0).normal(size=(2, 6, 8)).astype(np.float32)}
CONSTANTS: dict[str, Any] = {
    "axes": np.array([1, 2], np.int64),
    "none": np.array([], np.int64),
    "last": np.array([-1], np.int64),
    "around": np.array([2, 1, 3, 4], np.int64),  # before axes 1 and 2, behind them
    "cut": np.array([2, -1, 3, 1], np.int64),
    "beyond": np.array([0, 14, 0, 0, 1, 9], np.int64),
    "twice": np.array([2.0, 2.0], np.float32),
    "sizes": np.array([9, 5], np.int64),
    "where": np.array([[1], [0]], np.int64),
    "places": np.array([[[2], [0]]], np.int64),
    "grid": np.random.default_rng(1).uniform(-1.2, 1.2, size=(1, 4, 5, 2)).astype(np.float32),
    "update": np.zeros((2, 6, 8), np.float32),
    "element": np.zeros((1, 2, 1), np.float32),
    "front": np.array([0], np.int64),
    "scale": np.asarray(0.02, np.float32),
    "scale16": np.asarray(0.02, np.float16),
    "zero": np.asarray(0, np.int8),
}


def node(op_type: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:  # noqa: ANN401 - as helper.make_node
    return helper.make_node(op_type, ["x", *inputs], ["y"], **attributes)


def image(op_type: str, *inputs: str, **attributes: Any) -> list[onnx.NodeProto]:  # noqa: ANN401
    """The same of an image of one channel for each sample."""
    return [
        helper.make_node("Unsqueeze", ["x", "front"], ["image"]),
        helper.make_node(op_type, ["image", *inputs], ["y"], **attributes),
    ]


def halved(*nodes: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Nodes from x16 to y16, in fp16."""
    return [
        helper.make_node("Cast", ["x"], ["x16"], to=onnx.TensorProto.FLOAT16),
        *nodes,
        helper.make_node("Cast", ["y16"], ["y"], to=onnx.TensorProto.FLOAT),
    ]


def parts(count: int, axis: int) -> list[onnx.NodeProto]:
    names = [f"part{index}" for index in range(count)]
    split = helper.make_node("Split", ["x"], names, num_outputs=count, axis=axis)
    return [split, helper.make_node("Concat", [*reversed(names)], ["y"], axis=axis)]


def reductions(**attributes: Any) -> dict[str, list[onnx.NodeProto]]:  # noqa: ANN401
    names = ("Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp")
    return {f"{name} {attributes}": [node(f"Reduce{name}", "none", **attributes)] for name in names}


def resized(by: str, **attributes: Any) -> list[onnx.NodeProto]:  # noqa: ANN401
    inputs = ("", "", "sizes") if by == "sizes" else ("", "twice")
    return [node("Resize", *inputs, axes=[2, 1], **attributes)]


NODES: dict[str, list[onnx.NodeProto]] = {
    "axes of a reduction": [node("ReduceMean", "axes", keepdims=1)],
    "all axes": [node("ReduceMax", keepdims=1)],
    **reductions(),
    **reductions(noop_with_empty_axes=1),
    "a split into equal parts": parts(2, 1),
    "a split with a smaller last part": parts(3, -1),
    "a saturating cast": [
        helper.make_node("Cast", ["x"], ["half"], to=onnx.TensorProto.FLOAT16, saturate=1),
        helper.make_node("Cast", ["half"], ["y"], to=onnx.TensorProto.FLOAT),
    ],
    "a pad of some axes": [node("Pad", "around", "", "axes")],
    "a pad of some axes by what is there": [node("Pad", "around", "", "axes", mode="edge")],
    "a pad that goes round": [node("Pad", "around", "", "axes", mode="wrap")],
    "a cut by some axes": [node("Pad", "cut", "", "axes")],
    "a pad that goes round more than once": [node("Pad", "beyond", mode="wrap")],
    **{f"a resize by {by}": resized(by, mode="linear") for by in ("sizes", "scales")},
    **{
        f"a resize by {by} about the centre": resized(
            by, mode="linear", coordinate_transformation_mode="half_pixel_symmetric"
        )
        for by in ("sizes", "scales")
    },
    **{f"samples: {mode}": image("GridSample", "grid", mode=mode) for mode in ("linear", "cubic", "nearest")},
    "samples, padded": image("GridSample", "grid", padding_mode="reflection", align_corners=1),
    **{f"scattered slices: {way}": [node("ScatterND", "where", "update", reduction=way)] for way in ("max", "min")},
    "scattered": [node("ScatterElements", "places", "element", axis=1, reduction="max")],
    "pools": image("LpPool", kernel_shape=[2, 3], dilations=[1, 1], ceil_mode=0, p=3),
    "averages": image("AveragePool", kernel_shape=[3, 3], ceil_mode=1, strides=[2, 2], dilations=[1, 1]),
    "Mish": [node("Mish")],
    "the centre": [node("CenterCropPad", "sizes", axes=[1, 2])],
    "an infinity in fp16": halved(helper.make_node("Exp", ["x16"], ["e"]), helper.make_node("IsInf", ["e"], ["y16"])),
    "Q/DQ": [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], saturate=1),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ],
    "Q/DQ in fp16": halved(
        helper.make_node("QuantizeLinear", ["x16", "scale16"], ["q"], output_dtype=onnx.TensorProto.INT8),
        helper.make_node("DequantizeLinear", ["q", "scale16"], ["y16"]),
    ),
}


# ONNX Runtime has two kernels for averages, and computes the centre from a size that it rounds.
NEAR = {"averages": 1e-7, "a resize by sizes about the centre": 1e-6}


def model(nodes: list[onnx.NodeProto], sizes: Sequence[int | str] = (2, 6, 8), opset: int = 24) -> onnx.ModelProto:
    used = {name for made in nodes for name in made.input}
    weights = {name: array for name, array in CONSTANTS.items() if name in used}
    last = next(name for name in nodes[-1].output if name)
    rank = 4 if "image" in used else 3
    made = graph(nodes, [value("x", sizes)], [value(last, [f"d{axis}" for axis in range(rank)])], **weights)
    made.opset_import[0].version = opset
    return made


def outputs(made: onnx.ModelProto, path: Path, feeds: Tensors = FEEDS) -> Tensors:
    onnx.save(made, path)
    return run_unoptimised(path, [feeds])[0]


@pytest.mark.parametrize("sizes", [(2, 6, 8), (2, "height", "width")], ids=["known sizes", "computed sizes"])
@pytest.mark.parametrize("what", NODES)
def test_an_older_opset_computes_the_same(what: str, sizes: tuple[int | str, ...], tmp_path: Path) -> None:
    newer = model(NODES[what], sizes)
    expected = outputs(newer, tmp_path / "newer.onnx")
    older = lower_opset(newer, OPSET, IR)
    assert (older.opset_import[0].version, older.ir_version) == (OPSET, IR)
    for name, array in outputs(older, tmp_path / "older.onnx").items():
        error = np.abs(array.astype(np.float64) - expected[name].astype(np.float64))
        assert error.max() <= NEAR.get(what, 0)


def test_what_is_split_and_padded_by_computed_sizes_follows_them(tmp_path: Path) -> None:
    for what in ("a split with a smaller last part", "a pad that goes round", "a pad of some axes"):
        newer = model(NODES[what], (2, "height", "width"))
        older = lower_opset(copy.deepcopy(newer), OPSET, IR)
        for size in ((2, 4, 5), (2, 3, 3), (2, 9, 7)):
            feeds: Tensors = {"x": np.random.default_rng(2).normal(size=size).astype(np.float32)}
            expected = outputs(newer, tmp_path / "newer.onnx", feeds)["y"]
            np.testing.assert_array_equal(outputs(older, tmp_path / "older.onnx", feeds)["y"], expected)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
@pytest.mark.parametrize("half", [False, True])
def test_gelu_is_spelt_out_in_the_type_of_its_input(approximate: str, *, half: bool, tmp_path: Path) -> None:
    alone = [node("Gelu", approximate=approximate)]
    between = halved(helper.make_node("Gelu", ["x16"], ["y16"], approximate=approximate))
    newer = model(between if half else alone)
    expected = outputs(newer, tmp_path / "newer.onnx")
    older = lower_opset(newer, OPSET, IR)
    assert "Gelu" not in {made.op_type for made in older.graph.node}
    actual = outputs(older, tmp_path / "older.onnx")
    assert worst(compare(actual, expected).values()).max_abs_error < (4e-3 if half else 1e-6)


def test_what_is_old_enough_stays_as_it_is() -> None:
    old = model([node("Relu")], opset=15)
    before = old.graph.SerializeToString(deterministic=True)
    assert lower_opset(old, OPSET, IR).graph.SerializeToString(deterministic=True) == before
    assert old.opset_import[0].version == 15


REFUSED = {
    "BitwiseNot .'flip'. is not in the opset .* it came with opset 18": node("BitwiseNot", name="flip"),
    r"tensor\(float8e4m3fn\) as y_zero_point": node("QuantizeLinear", "scale", "zero8", saturate=0),
    "antialias = 1": node("Resize", "", "twice", axes=[1, 2], mode="linear", antialias=1),
    "keep_aspect_ratio_policy = b'not_larger'": node(
        "Resize", "", "", "sizes", axes=[1, 2], keep_aspect_ratio_policy="not_larger"
    ),
    "half_pixel_symmetric' with sizes that are rounded": node(
        "Resize", "", "uneven", axes=[1, 2], mode="linear", coordinate_transformation_mode="half_pixel_symmetric"
    ),
    "several values into one place": node("ScatterND", "same", "update", reduction="max"),
    "at places that are computed": node("ScatterND", "given", "update", reduction="min"),
    "axes that are computed": node("ReduceMean", "given"),
    "dilations = ": node("AveragePool", kernel_shape=[2], dilations=[2]),
    "ceil_mode = 1": node("LpPool", kernel_shape=[2], ceil_mode=1),
    "block_size = 2": node("QuantizeLinear", "blocks", block_size=2, axis=2),
    r"tensor\(int16\) as y_zero_point": node("QuantizeLinear", "scale", output_dtype=onnx.TensorProto.INT16),
    "it samples other than images": node("GridSample", "grid"),
}


@pytest.mark.parametrize("says", REFUSED)
def test_what_the_older_opset_cannot_say_is_refused(says: str) -> None:
    more = {
        "uneven": np.array([1.3, 0.7], np.float32),
        "same": np.array([[1], [1]], np.int64),
        "zero8": np.asarray(0, onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.FLOAT8E4M3FN)),
        "blocks": np.ones((2, 6, 4), np.float32),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, array in more.items():
            patch.setitem(CONSTANTS, name, array)
        newer = model([REFUSED[says]])
    newer.graph.input.append(value("given", [2, 1], onnx.TensorProto.INT64))
    with pytest.raises(CannotRun, match=says):
        lower_opset(newer, OPSET, IR)


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
