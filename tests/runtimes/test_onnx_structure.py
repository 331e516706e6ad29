"""New weights keep a graph's structure; whatever is compiled into an engine changes it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tasks.runtimes.onnx_structure import structure_of, weight_names
from tests.projects import graph, value


def net(scale: float = 1.0, step: float = 0.1) -> onnx.ModelProto:
    weights = {
        "w": scale * np.ones((4, 4), np.float32),
        "step": np.array([step, step, step, step], np.float32),
        "zero": np.zeros(4, np.int8),
        "eps": np.array(1e-5, np.float32),
        "shape": np.array([-1, 2, 2], np.int64),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["w", "step", "zero"], ["q"], name="quantize", axis=0),
        helper.make_node("DequantizeLinear", ["q", "step", "zero"], ["d"], name="dequantize", axis=0),
        helper.make_node("MatMul", ["x", "d"], ["m"], name="product"),
        helper.make_node("Add", ["m", "eps"], ["a"], name="sum"),
        helper.make_node("Reshape", ["a", "shape"], ["y"], name="reshape"),
    ]
    return graph(nodes, [value("x", ["batch", 4])], [value("y", ["batch", 2, 2])], **weights)


def changed(model: onnx.ModelProto, name: str, array: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]") -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def test_weights_are_no_part_of_it(tmp_path: Path) -> None:
    assert structure_of(net(), tmp_path) == structure_of(net(scale=2.0), tmp_path)
    assert weight_names(net()) == {"w"}


def test_notes_of_the_exporter_are_no_part_of_it(tmp_path: Path) -> None:
    noted = net()
    noted.producer_name = "another"
    noted.doc_string = "text"
    noted.graph.node[0].doc_string = "line 7"
    noted.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value="line 8")
    assert structure_of(net(), tmp_path) == structure_of(noted, tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda m: changed(m, "step", np.full(4, 0.2, np.float32)), id="scale of Q/DQ"),
        pytest.param(lambda m: changed(m, "zero", np.ones(4, np.int8)), id="zero point"),
        pytest.param(lambda m: changed(m, "eps", np.array(1e-3, np.float32)), id="scalar"),
        pytest.param(lambda m: changed(m, "shape", np.array([-1, 4, 1])), id="shape"),
        pytest.param(lambda m: changed(m, "w", np.ones((4, 4), np.float16)), id="type of a weight"),
        pytest.param(lambda m: changed(m, "w", np.ones((4, 8), np.float32)), id="shape of a weight"),
        pytest.param(lambda m: setattr(m.graph.node[0].attribute[0], "i", 1), id="attribute"),
        pytest.param(lambda m: setattr(m.graph.node[2], "name", "other"), id="name of a node"),
        pytest.param(lambda m: setattr(m.graph.node[3], "op_type", "Sub"), id="operator"),
        pytest.param(lambda m: setattr(m.opset_import[0], "version", 19), id="opset"),
    ],
)
def test_what_is_compiled_in_is_part_of_it(change: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    other = net()
    change(other)
    assert structure_of(net(), tmp_path) != structure_of(other, tmp_path)


def test_what_a_branch_reads_is_part_of_it(tmp_path: Path) -> None:
    def branching(scale: float) -> onnx.ModelProto:
        body = helper.make_graph([helper.make_node("Add", ["x", "w"], ["t"])], "then", [], [value("t", [2])])
        other = helper.make_graph([helper.make_node("Neg", ["x"], ["e"])], "else", [], [value("e", [2])])
        node = helper.make_node("If", ["c"], ["y"], name="if", then_branch=body, else_branch=other)
        inputs = [value("x", [2]), value("c", [], onnx.TensorProto.BOOL)]
        return graph([node], inputs, [value("y", [2])], w=scale * np.ones(2, np.float32))

    assert structure_of(branching(1), tmp_path) != structure_of(branching(2), tmp_path)


def test_weights_that_lie_outside_are_not_read(tmp_path: Path) -> None:
    model = net()
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    stored = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    assert structure_of(stored, tmp_path) == structure_of(net(scale=3.0), tmp_path)
