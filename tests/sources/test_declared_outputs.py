"""Declared shapes of outputs are those that come out."""

import numpy as np
import onnx
import pytest
from onnx import helper

from tasks.sources.declared_outputs import correct_outputs
from tests.projects import graph, value

RANGES = {"batch": (1, 8), "seq": (4, 32)}


def tagger(declared: list[int | str] | None) -> onnx.ModelProto:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    model = graph(nodes, [value("x", ["batch", "seq", 5])], [value("y", declared or [])], w=np.ones((5, 7), np.float32))
    if declared is None:
        model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def shape(model: onnx.ModelProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]


@pytest.mark.parametrize(
    "declared",
    [["batch", 12, 7], ["seq", "batch", 7], ["s77", "unk__0", 7], ["batch", "seq", "seq"], [1, 12], [], None],
)
def test_a_wrong_shape_is_put_right(declared: list[int | str] | None) -> None:
    model = tagger(declared)
    assert correct_outputs(model, RANGES)
    assert shape(model) == ["batch", "seq", 7]


def test_a_right_shape_stays_as_it_is() -> None:
    model = tagger(["batch", "seq", 7])
    before = model.SerializeToString()
    assert not correct_outputs(model, RANGES)
    assert model.SerializeToString() == before


def test_a_size_that_is_no_dims_own_is_unknown() -> None:
    nodes = [helper.make_node("Concat", ["x", "x"], ["y"], axis=1)]
    model = graph(nodes, [value("x", ["batch", "seq"])], [value("y", ["batch", 24])])
    assert correct_outputs(model, RANGES)
    assert shape(model) == ["batch", 0]
    assert not model.graph.output[0].type.tensor_type.shape.dim[1].HasField("dim_value")


def test_dims_of_one_range_are_told_apart() -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["y"], perm=[1, 0])]
    model = graph(nodes, [value("x", ["batch", "seq"])], [value("y", [8, 8])])
    assert correct_outputs(model, {"batch": (1, 8), "seq": (1, 8)})
    assert shape(model) == ["seq", "batch"]
