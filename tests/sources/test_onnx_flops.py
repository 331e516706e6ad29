"""FLOPs against sums done by hand, and against torch's own counter; what is not known is named."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tasks.sources.onnx_flops import FlopsRequest, ModelFacts, count_flops
from tests.projects import FLOAT, INT64, graph, value

Weights = dict[str, "np.ndarray[Any, Any]"]


def zeros(*shape: int) -> "np.ndarray[Any, Any]":
    return np.zeros(shape, np.float32)


def count(folder: Path, model: onnx.ModelProto, sizes: Mapping[str, int] | None = None) -> ModelFacts:
    onnx.save(model, folder / "model.onnx")
    return count_flops(FlopsRequest(model=folder / "model.onnx", sizes=dict(sizes or {})))


def one(
    node: onnx.NodeProto, shapes: Mapping[str, Sequence[int | str]], **weights: "np.ndarray[Any, Any]"
) -> onnx.ModelProto:
    """A graph of one node whose output has some shape."""
    inputs = [value(name, shape) for name, shape in shapes.items()]
    return graph([node], inputs, [value(node.output[0], ["?"])], **weights)


CASES = {
    # 2 x 8 x 6 x 6 output values, each of 3 x 3 x 4 weights
    "conv": (
        one(helper.make_node("Conv", ["x", "w"], ["y"]), {"x": [2, 4, 8, 8]}, w=zeros(8, 4, 3, 3)),
        2 * 8 * 6 * 6 * 36,
    ),
    # in two groups a filter sees half of the channels
    "grouped conv": (
        one(helper.make_node("Conv", ["x", "w"], ["y"], group=2), {"x": [1, 4, 8, 8]}, w=zeros(8, 2, 3, 3)),
        8 * 6 * 6 * 18,
    ),
    # 1 x 4 x 5 x 5 input values, each spread by 6 x 2 x 2 weights
    "transposed conv": (
        one(helper.make_node("ConvTranspose", ["x", "w"], ["y"]), {"x": [1, 4, 5, 5]}, w=zeros(4, 6, 2, 2)),
        4 * 25 * 24,
    ),
    "gemm": (
        one(helper.make_node("Gemm", ["x", "w"], ["y"], transA=1, transB=1), {"x": [5, 3]}, w=zeros(7, 5)),
        3 * 7 * 5,
    ),
    "matmul of a dynamic batch": (
        one(helper.make_node("MatMul", ["x", "w"], ["y"]), {"x": ["batch", 2, 3, 4]}, w=zeros(4, 5)),
        6 * 2 * 3 * 4 * 5,
    ),
    # 7 steps of 2 sequences through four gates of 5 + 8 inputs and 8 states
    "lstm": (
        one(
            helper.make_node("LSTM", ["x", "w", "r"], ["y"], hidden_size=8),
            {"x": [7, 2, 5]},
            w=zeros(1, 32, 5),
            r=zeros(1, 32, 8),
        ),
        7 * 2 * 32 * 13,
    ),
    "gru, both directions, batch first": (
        one(
            helper.make_node("GRU", ["x", "w", "r"], ["y"], hidden_size=8, direction="bidirectional", layout=1),
            {"x": [2, 7, 5]},
            w=zeros(2, 24, 5),
            r=zeros(2, 24, 8),
        ),
        7 * 2 * 2 * 24 * 13,
    ),
    "einsum": (
        one(helper.make_node("Einsum", ["x", "w"], ["y"], equation="bij,bjk->bik"), {"x": [2, 3, 4]}, w=zeros(2, 4, 5)),
        2 * 3 * 4 * 5,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_multiply_adds_are_those_that_one_counts_by_hand(name: str, tmp_path: Path) -> None:
    model, expected = CASES[name]
    found = count(tmp_path, model, {"batch": 6})
    assert (found.multiply_adds, found.unknown, found.not_counted) == (expected, (), {})
    assert sum(found.by_operator.values()) == expected


def test_bytes_are_those_of_weights_and_of_all_that_is_read_and_written(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    found = count(tmp_path, graph(nodes, [value("x", ["n", 4])], [value("y", ["n", 5])], w=zeros(4, 5)), {"n": 3})
    assert (found.parameters, found.weight_bytes) == (20, 80)
    assert found.moved_bytes == 4 * ((12 + 20 + 15) + (15 + 15))
    assert found.not_counted == {"Relu": 1}


def test_shapes_that_the_graph_computes_are_followed(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["rows"], start=0, end=1),
        helper.make_node("Concat", ["rows", "minus"], ["to"], axis=0),
        helper.make_node("Reshape", ["x", "to"], ["flat"]),
        helper.make_node("MatMul", ["flat", "w"], ["y"]),
    ]
    model = graph(nodes, [value("x", ["n", 2, 3])], [value("y", ["n", 5])], w=zeros(6, 5), minus=np.array([-1]))
    found = count(tmp_path, model, {"n": 4})
    assert (found.multiply_adds, found.unknown) == (4 * 6 * 5, ())


def test_what_cannot_be_known_is_named_and_never_counted_silently(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["found"]),  # as many as there are
        helper.make_node("Cast", ["found"], ["f"], to=FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["h"], name="head"),
        helper.make_node("Own", ["h"], ["y"], domain="somebody"),
    ]
    made = helper.make_graph(
        nodes, "g", [value("x", [4])], [value("y", ["?"])], graph([], [], [], w=zeros(4, 5)).graph.initializer
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("somebody", 1)]
    found = count(tmp_path, helper.make_model(made, opset_imports=opsets, ir_version=10))
    assert (found.multiply_adds, found.unknown, found.moved_bytes) == (0, ("MatMul head",), None)
    assert found.not_counted == {"NonZero": 1, "Own": 1}


def test_weights_in_another_file_are_counted_without_being_read(tmp_path: Path) -> None:
    model = CASES["gemm"][0]
    onnx.save(model, tmp_path / "model.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "weights.bin").unlink()
    found = count_flops(FlopsRequest(model=tmp_path / "model.onnx", sizes={}))
    assert (found.multiply_adds, found.parameters, found.weight_bytes) == (105, 35, 140)


def test_integers_of_shapes_are_no_parameters(tmp_path: Path) -> None:
    node = helper.make_node("Gather", ["w", "x"], ["y"])
    model = graph([node], [value("x", [2], INT64)], [value("y", [2, 5])], w=zeros(4, 5), unused=np.array([1, 2, 3]))
    assert count(tmp_path, model).parameters == 20


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the exporter that needs no onnxscript
def test_a_convolutional_net_costs_what_torch_counts(tmp_path: Path) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from tests.nets import build_cnn

    net, picture = build_cnn(), torch.zeros(3, 1, 8, 8)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        net(picture)
    torch.onnx.export(net, (picture,), str(tmp_path / "model.onnx"), dynamo=False, opset_version=17)
    found = count_flops(FlopsRequest(model=tmp_path / "model.onnx", sizes={}))
    assert 2 * found.multiply_adds == counter.get_total_flops()
    assert found.parameters == sum(parameter.numel() for parameter in net.parameters())
