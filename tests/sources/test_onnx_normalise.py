"""One form for every tool: what needs nothing stays as it is, and nothing computes otherwise."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.core.tensors import Tensors
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tasks.sources.fold_check import first_difference, invalid
from tasks.sources.node_order import sort_nodes
from tasks.sources.onnx_graph import check_graph, read_facts
from tasks.sources.onnx_normalise import normalise
from tests.projects import graph, linear, value

node = helper.make_node
FEEDS: Tensors = {"x": np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)}
SQUARE = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)


def squares(*nodes: onnx.NodeProto, outputs: tuple[str, ...] = ("y",)) -> onnx.ModelProto:
    given = [value(name, ["batch", 4] if name in ("x", "y") else [4, 4]) for name in outputs]
    return graph(nodes, [value("x", ["batch", 4])], given, w=SQUARE)


def with_function() -> onnx.ModelProto:
    model = squares(node("Block", ["x", "w"], ["h"], domain="my"), node("Block", ["h", "w"], ["y"], domain="my"))
    body = [node("MatMul", ["a", "b"], ["t"]), node("Relu", ["t"], ["c"])]
    model.functions.append(helper.make_function("my", "Block", ["a", "b"], ["c"], body, [helper.make_opsetid("", 20)]))
    model.opset_import.append(helper.make_opsetid("my", 1))
    return model


def with_long_domain() -> onnx.ModelProto:
    model = squares(node("MatMul", ["x", "w"], ["y"], domain="ai.onnx"))
    model.opset_import[0].domain = "ai.onnx"
    model.graph.name = ""
    return model


def with_listed_initializers() -> onnx.ModelProto:
    model = squares(node("MatMul", ["x", "w"], ["y"]))
    model.graph.input.append(value("w", [4, 4]))
    model.ir_version, model.opset_import[0].version = 3, 8
    return model


def with_sparse_weight() -> onnx.ModelProto:
    model = squares(node("MatMul", ["x", "s"], ["y"]))
    values = numpy_helper.from_array(np.array([1, 2, 3], np.float32), "s")
    places = numpy_helper.from_array(np.array([[0, 1], [2, 2], [3, 0]]))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4, 4]))
    return model


def with_constants() -> onnx.ModelProto:
    half = numpy_helper.from_array(SQUARE)
    return squares(
        node("Constant", [], ["k"], value=half),
        node("Constant", [], ["f"], value_float=0.5),
        node("MatMul", ["x", "k"], ["h"]),
        node("Mul", ["h", "f"], ["y"]),
    )


def with_constant_outputs() -> onnx.ModelProto:
    nodes = [node("Constant", [], ["k"], value=numpy_helper.from_array(SQUARE)), node("MatMul", ["x", "w"], ["y"])]
    return squares(*nodes, outputs=("k", "y", "w"))


ODD = [
    (with_function, "functions inlined"),
    (with_long_domain, "default domain named"),
    (with_listed_initializers, "initializers no longer inputs"),
    (with_sparse_weight, "sparse initializers made dense"),
    (with_constants, "constants made initializers"),
    (with_constant_outputs, "constant outputs given a node"),
]


@pytest.mark.parametrize(("make", "what"), ODD, ids=[what for _, what in ODD])
def test_an_odd_graph_is_prepared_and_computes_the_same(
    make: "Callable[[], onnx.ModelProto]", what: str, tmp_path: Path
) -> None:
    model = make()
    onnx.save(model, tmp_path / "model.onnx")
    check_graph(model, tmp_path / "model.onnx")
    made, done = normalise(model, tmp_path)
    assert what in done
    assert not invalid(made)
    assert made.ir_version >= 8
    assert list(read_facts(made).inputs) == ["x"]
    assert read_facts(made).outputs == read_facts(model).outputs
    given = {output.name for each in made.graph.node for output in made.graph.output if output.name in each.output}
    assert given == {output.name for output in made.graph.output}
    onnx.save(made, tmp_path / "made.onnx")
    pair = (run_unoptimised(tmp_path / name, [FEEDS]) for name in ("made.onnx", "model.onnx"))
    assert not first_difference(*pair)


def test_a_graph_that_needs_nothing_stays_as_it_is(tmp_path: Path) -> None:
    model = linear("batch")
    model.graph.node[0].name = "product"
    made, done = normalise(model, tmp_path)
    assert made.SerializeToString() == model.SerializeToString()
    assert not done


def test_16_bit_weights_are_seen_wherever_they_are() -> None:
    half = numpy_helper.from_array(SQUARE.astype(np.float16))
    in_constant = squares(node("Constant", [], ["k"], value=half), node("Cast", ["x"], ["y"], to=TensorProto.FLOAT))
    in_constant.graph.ClearField("initializer")
    in_function = squares(node("Block", ["x"], ["y"], domain="my"))
    in_function.graph.ClearField("initializer")
    in_function.functions.append(helper.make_function("my", "Block", ["a"], ["c"], in_constant.graph.node[:1], []))
    assert read_facts(in_constant).typed
    assert read_facts(in_function).typed
    assert not read_facts(linear()).typed


def test_nodes_are_sorted_by_what_their_bodies_read_too() -> None:
    branches = [helper.make_graph([node(name, ["h"], [name])], name, [], [value(name, [2])]) for name in ("Neg", "Abs")]
    nodes = [
        node("If", ["c"], ["y"], then_branch=branches[0], else_branch=branches[1]),
        node("Relu", ["x"], ["h"]),
    ]
    model = graph(nodes, [value("x", [2]), value("c", [], TensorProto.BOOL)], [value("y", [2])])
    assert sort_nodes(model.graph)
    assert [each.op_type for each in model.graph.node] == ["Relu", "If"]
    assert not sort_nodes(model.graph)
