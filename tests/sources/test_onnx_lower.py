"""A graph in an older opset is held against the graph that it was."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.core.errors import StepError
from tasks.core.tensors import save_batches
from tasks.sources.onnx_lower import LowerMetrics, LowerRequest, lower_graph
from tests.projects import graph, value


def lowered(folder: Path, model: onnx.ModelProto, **saving: Any) -> LowerMetrics:  # noqa: ANN401 - as onnx.save
    (folder / "lowered").mkdir()
    onnx.save(model, folder / "model.onnx", **saving)
    save_batches(
        folder / "golden.safetensors", [{"x": np.random.default_rng(0).normal(size=(2, 4)).astype(np.float32)}]
    )
    request = LowerRequest(
        model=folder / "model.onnx",
        kind="fp32",
        opset=17,
        ir_version=8,
        golden=folder / "golden.safetensors",
        folder=folder / "lowered",
    )
    return lower_graph(request)


def through(*op_types: str, opset: int = 20, **weights: "np.ndarray[Any, Any]") -> onnx.ModelProto:
    """One operator after the other, from x to y; the weights go into the first."""
    nodes, names = [], ["x", *(f"t{index}" for index in range(1, len(op_types))), "y"]
    for index, op_type in enumerate(op_types):
        inputs = [names[index], *(weights if index == 0 else ())]
        nodes.append(helper.make_node(op_type, inputs, [names[index + 1]], name=op_type))
    model = graph(nodes, [value("x", [2, 4])], [value("y", [2, "n"])], **weights)
    model.opset_import[0].version = opset
    return model


def test_it_tells_how_near_the_two_are(tmp_path: Path) -> None:
    weight = np.random.default_rng(1).normal(size=(4, 2048)).astype(np.float32)
    model = through("MatMul", "Gelu", w=weight)
    metrics = lowered(
        tmp_path, model, save_as_external_data=True, location="weights.bin", size_threshold=64
    )  # which stay where they are: the step links them
    assert (metrics.opset_before, metrics.facts.opset, metrics.facts.external_files) == (20, 17, ("weights.bin",))
    assert not metrics.not_compared
    assert metrics.identical or metrics.outputs["y"].rel_l2 < 1e-6
    assert "Erf" in metrics.facts.operators


def test_what_computes_the_same_bits_is_told_to(tmp_path: Path) -> None:
    metrics = lowered(tmp_path, through("Identity", "Relu", opset=24))
    assert (metrics.identical, metrics.outputs, metrics.unchanged) == (True, {}, False)


def test_a_graph_that_is_old_enough_is_to_be_linked(tmp_path: Path) -> None:
    model = through("Relu", opset=17)
    model.ir_version = 8
    assert lowered(tmp_path, model).unchanged
    assert not list((tmp_path / "lowered").iterdir())


def test_a_graph_that_computes_something_else_is_refused_by_the_worst_output(tmp_path: Path) -> None:
    # The scores after softcap, or with the mask: ONNX Runtime 1.31 gives others than ONNX itself defines.
    heads = helper.make_node("Unsqueeze", ["x", "front"], ["h"])
    attention = helper.make_node(
        "Attention", ["h", "h", "h"], ["y", "", "", "scores"], softcap=0.5, qk_matmul_output_mode=1
    )
    outputs = [value("y", [1, 1, 2, 4]), value("scores", [1, 1, 2, 2])]
    model = graph([heads, attention], [value("x", [2, 4])], outputs, front=np.array([0, 1]))
    model.opset_import[0].version = 23
    with pytest.raises(StepError, match="opset 17 computes something else than the typed graph: output 'scores' has"):
        lowered(tmp_path, model)


def test_what_onnx_runtime_has_no_kernels_for_is_not_compared(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["low"], to=TensorProto.BFLOAT16),
        helper.make_node("Gelu", ["low"], ["soft"]),
        helper.make_node("Cast", ["soft"], ["y"], to=TensorProto.FLOAT),
    ]
    metrics = lowered(tmp_path, graph(nodes, [value("x", [2, 4])], [value("y", [2, 4])]))
    assert "onnxruntime has no CPU kernel for" in metrics.not_compared
    assert (metrics.identical, metrics.outputs) == (False, {})
