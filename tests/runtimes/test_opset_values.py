"""Whatever the attributes and sizes: a graph in opset 17 computes what it did, or is refused."""

import copy
from typing import Any

import numpy as np
import onnx
import onnxruntime
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import helper

from tasks.core.errors import CannotRun
from tasks.core.tensors import Tensors
from tasks.runtimes.opset.lower import lower_opset
from tests.projects import graph, value

NEWEST = 25  # that ONNX Runtime 1.31 runs
Arrays = dict[str, "np.ndarray[Any, Any]"]


def outputs(model: onnx.ModelProto, feeds: Tensors) -> list["np.ndarray[Any, Any]"]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[np.ndarray[Any, Any]] = session.run(None, feeds)
    return found


def check(node: onnx.NodeProto, shape: tuple[int, ...], weights: Arrays, *, known: bool) -> None:
    """Hold one node against what it becomes, with sizes that the graph declares or does not."""
    names = [name for name in node.output if name]
    sizes = [size if known else f"size{axis}" for axis, size in enumerate(shape)]
    given_ranks = [value(name, [f"{name}{axis}" for axis in range(len(shape))]) for name in names]
    newer = graph([node], [value("x", sizes)], given_ranks, **weights)
    newer.opset_import[0].version = NEWEST
    feeds: Tensors = {"x": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    try:
        expected = outputs(newer, feeds)
    except Exception:  # noqa: BLE001 - no graph that ONNX Runtime runs says nothing
        expected = []
    assume(expected)
    try:
        older = lower_opset(copy.deepcopy(newer), 17, 8)
    except CannotRun:
        return
    for actual, wanted in zip(outputs(older, feeds), expected, strict=True):
        np.testing.assert_allclose(actual, wanted, rtol=1e-5, atol=1e-6)


shapes = st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9))
quick = settings(max_examples=40, deadline=None, derandomize=True)


@quick
@given(shapes, st.integers(1, 5), st.integers(-3, 2), st.booleans())
def test_split(shape: tuple[int, ...], count: int, axis: int, known: bool) -> None:
    node = helper.make_node("Split", ["x"], [f"part{index}" for index in range(count)], num_outputs=count, axis=axis)
    check(node, shape, {}, known=known)


@quick
@given(st.data(), shapes, st.sampled_from(["constant", "edge", "reflect", "wrap"]), st.booleans())
def test_pad(data: st.DataObject, shape: tuple[int, ...], mode: str, known: bool) -> None:
    axes = data.draw(st.lists(st.integers(-3, 2), min_size=1, max_size=3, unique_by=lambda axis: axis % 3))
    pads = data.draw(st.lists(st.integers(-1, 7), min_size=2 * len(axes), max_size=2 * len(axes)))
    weights: Arrays = {"pads": np.array(pads), "axes": np.array(axes)}
    check(helper.make_node("Pad", ["x", "pads", "", "axes"], ["y"], mode=mode), shape, weights, known=known)


_COORDINATES = ("half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric")


@quick
@given(st.data(), shapes, st.sampled_from(_COORDINATES), st.sampled_from(["nearest", "linear"]), st.booleans())
def test_resize(
    data: st.DataObject,
    shape: tuple[int, ...],
    how: str,
    mode: str,
    known: bool,
) -> None:
    axes = data.draw(st.sampled_from([[1, 2], [2, 1], [-1], [1], [0, 1, 2], None]))
    count = 3 if axes is None else len(axes)
    if data.draw(st.booleans()):
        weights: Arrays = {"sizes": np.array(data.draw(st.lists(st.integers(1, 12), min_size=count, max_size=count)))}
        inputs = ["x", "", "", "sizes"]
    else:
        scales = data.draw(st.lists(st.sampled_from([0.5, 1.0, 1.3, 2.0, 3.0]), min_size=count, max_size=count))
        weights, inputs = {"scales": np.array(scales, np.float32)}, ["x", "", "scales"]
    node = helper.make_node("Resize", inputs, ["y"], mode=mode, coordinate_transformation_mode=how)
    if axes is not None:
        node.attribute.append(helper.make_attribute("axes", axes))
    check(node, shape, weights, known=known)


_REDUCTIONS = ("Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp")


@quick
@given(st.sampled_from(_REDUCTIONS), shapes, st.lists(st.integers(-3, 2), max_size=3), st.booleans(), st.booleans())
def test_reductions(
    name: str,
    shape: tuple[int, ...],
    axes: list[int],
    noop: bool,
    given_axes: bool,
) -> None:
    inputs = ["x", "axes"] if given_axes else ["x"]
    weights: Arrays = {"axes": np.array(sorted({axis % 3 for axis in axes}), np.int64)} if given_axes else {}
    node = helper.make_node(f"Reduce{name}", inputs, ["y"], keepdims=1, noop_with_empty_axes=int(noop))
    check(node, shape, weights, known=False)


@quick
@given(st.data(), shapes, st.sampled_from(["none", "add", "mul", "max", "min"]), st.booleans())
def test_scatter(data: st.DataObject, shape: tuple[int, ...], reduction: str, slices: bool) -> None:
    places = data.draw(st.lists(st.integers(-1, shape[0] - 1), min_size=1, max_size=3))
    index = np.array(places).reshape(-1, 1) if slices else np.array(places).reshape(-1, 1, 1)
    update = np.random.default_rng(1).normal(size=(len(places), *(shape[1:] if slices else (1, 1))))
    weights: Arrays = {"index": index, "update": update.astype(np.float32)}
    node = helper.make_node("ScatterND" if slices else "ScatterElements", ["x", "index", "update"], ["y"])
    node.attribute.append(helper.make_attribute("reduction", reduction))
    check(node, shape, weights, known=True)
