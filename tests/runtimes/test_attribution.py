"""A node that is ruined is named, whatever a quantiser or a cast put around it."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.core.metrics import UNBOUNDED
from tasks.core.tensors import save_batches
from tasks.runtimes.attribution import TENSORS, Attribution, AttributionRequest, WhereMetrics, attribute
from tests.projects import FLOAT, graph, value

SCOPES = "pkg.torch.onnx.name_scopes"
WEIGHTS: dict[str, Any] = {
    "w": np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4),
    "c": np.array([1, 2, 3, 4], np.float32),
    "scale": np.array(1 / 32, np.float32),
    "zero": np.array(0, np.int8),
}
NODES = (
    helper.make_node("MatMul", ["x", "w"], ["a"], name="mix"),
    helper.make_node("Relu", ["a"], ["b"], name="gate"),
    helper.make_node("Mul", ["b", "c"], ["m"], name="gain"),
    helper.make_node("Add", ["m", "x"], ["y"], name="residual"),
)


def model(*nodes: onnx.NodeProto, **changed: object) -> onnx.ModelProto:
    used = {name for node in nodes for name in node.input}
    weights = {name: array for name, array in (WEIGHTS | changed).items() if name in used}
    return graph(
        nodes, [value("x", ["batch", 4])], [helper.make_tensor_value_info(nodes[-1].output[0], FLOAT, None)], **weights
    )


def quantized(reads: str, writes: str) -> list[onnx.NodeProto]:
    given = ["scale", "zero"]
    return [
        helper.make_node("QuantizeLinear", [reads, *given], [f"{reads}_q"]),
        helper.make_node("DequantizeLinear", [f"{reads}_q", *given], [writes]),
    ]


def in_half(name: str, node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """A node whose first input is cast to half and whose output is cast back under the name that it had."""
    half = onnx.NodeProto.FromString(node.SerializeToString())
    half.input[0], half.output[0] = f"{name}_half", f"{node.output[0]}_half"
    cast = helper.make_node("Cast", [name], [f"{name}_half"], to=TensorProto.FLOAT16)
    return [cast, half, helper.make_node("Cast", list(half.output), list(node.output), to=FLOAT)]


class Found:
    """What attribution says of a typed graph."""

    def __init__(
        self, folder: Path, folded: onnx.ModelProto, typed: onnx.ModelProto, exported: onnx.ModelProto | None = None
    ) -> None:
        for name, graph_ in (("exported", exported or folded), ("folded", folded), ("typed", typed)):
            (folder / name).mkdir()
            onnx.save(graph_, folder / name / "model.onnx")
        rng = np.random.default_rng(3)
        batches = [{"x": rng.standard_normal((rows, 4), dtype=np.float32)} for rows in (3, 2)]
        save_batches(folder / "golden.safetensors", [dict(batch) for batch in batches])
        request = AttributionRequest(
            exported=folder / "exported/model.onnx",
            folded=folder / "folded/model.onnx",
            typed=folder / "typed/model.onnx",
            feeds=folder / "golden.safetensors",
            bound=0.05,
            folder=folder,
        )
        self.short: WhereMetrics = attribute(request)
        self.whole = Attribution.model_validate_json((folder / TENSORS).read_bytes())
        self.by_name = {tensor.name: tensor for tensor in self.whole.tensors}


def test_equal_graphs_have_no_error_anywhere(tmp_path: Path) -> None:
    found = Found(tmp_path, model(*NODES), model(*NODES))
    assert list(found.by_name) == ["a", "b", "m", "y"]
    assert {tensor.rel_l2 for tensor in found.whole.tensors} == {0.0}
    assert (found.short.compared, found.short.not_comparable) == (4, 0)
    assert (found.short.first_bad, found.short.most_added) == (None, ())


def test_the_ruined_node_is_named(tmp_path: Path) -> None:
    ruined = np.array([1, 2, -3, 4], np.float32)
    found = Found(tmp_path, model(*NODES), model(*NODES, c=ruined))
    bad = found.short.first_bad
    assert bad is not None
    assert (bad.name, bad.op_type, bad.node) == ("m", "Mul", "gain")
    assert bad.added == bad.rel_l2 > 0.05
    assert found.short.most_added == (bad,)  # the sum behind it is off as well, by less
    assert found.by_name["y"].rel_l2 > 0.05
    assert found.by_name["y"].added < 0


def test_it_is_named_behind_quantisation_and_casts_too(tmp_path: Path) -> None:
    mix, gate, gain, residual = NODES
    gate = helper.make_node("Relu", ["a_dq"], ["b"], name="gate")
    typed = [mix, *quantized("a", "a_dq"), gate, *in_half("b", gain), residual]
    c = np.array([1, 2, -3, 4], np.float16)
    found = Found(tmp_path, model(*NODES), model(*typed, c=c))
    assert found.short.first_bad is not None
    assert found.short.first_bad.node == "gain"
    assert found.by_name["a"].rel_l2 == 0
    # What Q/DQ between `a` and `b` cost is what `b` added, and none of it is put down to `m`.
    assert 0 < found.by_name["b"].added == found.by_name["b"].rel_l2 < 0.05
    m = found.by_name["m"]
    assert m.added == pytest.approx(m.rel_l2 - found.by_name["b"].rel_l2)


def test_errors_are_taken_over_all_batches(tmp_path: Path) -> None:
    found = Found(tmp_path, model(*NODES), model(*NODES, c=WEIGHTS["c"] * np.float32(1.25)))
    assert found.by_name["m"].rel_l2 == pytest.approx(0.25)
    assert found.by_name["m"].cosine == pytest.approx(1)


def test_modules_are_those_that_the_exported_graph_notes(tmp_path: Path) -> None:
    exported = model(*NODES)
    noted = ("['', 'layers.0', 'layers.0.mix', 'matmul']", "['', 'relu']", "not a list")
    for node, scopes in zip(exported.graph.node, noted, strict=False):
        node.metadata_props.add(key=SCOPES, value=scopes)
    found = Found(tmp_path, model(*NODES), model(*NODES), exported)
    modules = {tensor.name: tensor.module for tensor in found.whole.tensors}
    assert modules == {"a": "layers.0.mix", "b": "", "m": "", "y": ""}


def test_what_has_no_counterpart_is_counted(tmp_path: Path) -> None:
    renamed = helper.make_node("Relu", ["a"], ["b2"], name="gate")
    reshaped = helper.make_node("Transpose", ["b2"], ["m"], name="gain", perm=[1, 0])
    found = Found(tmp_path, model(*NODES), model(NODES[0], renamed, reshaped))
    assert list(found.by_name) == ["a"]
    assert set(found.whole.not_comparable) == {"b", "m", "y"}
    assert (found.short.compared, found.short.not_comparable) == (1, 3)


def test_an_overflow_is_named_where_it_begins(tmp_path: Path) -> None:
    large = helper.make_node("Mul", ["b", "c"], ["m"], name="gain")
    folded = model(*NODES[:2], large, NODES[3], c=np.full(4, 1e6, np.float32))
    half = in_half("b", large)
    found = Found(tmp_path, folded, model(*NODES[:2], *half, NODES[3], c=np.full(4, np.inf, np.float16)))
    bad = found.short.first_bad
    assert bad is not None
    assert (bad.node, bad.finite, bad.rel_l2, bad.cosine) == ("gain", False, UNBOUNDED, 0)
    assert found.by_name["y"].added == 0


@pytest.mark.parametrize("lowest", [np.finfo(np.float32).min, -np.inf])
def test_a_mask_of_a_narrower_type_is_the_same_mask(tmp_path: Path, lowest: float) -> None:
    add = helper.make_node("Add", ["x", "c"], ["masked"], name="mask")
    nodes = [add, helper.make_node("Softmax", ["masked"], ["p"], name="attention")]
    wide = np.array([0, 0, lowest, lowest], np.float32)
    narrow = np.array([0, 0, -65504, -np.inf], np.float16)
    found = Found(tmp_path, model(*nodes, c=wide), model(*in_half("x", add), nodes[1], c=narrow))
    assert found.short.first_bad is None
    assert found.by_name["masked"].rel_l2 < 1e-3


def test_a_graph_that_is_not_finite_by_itself_judges_nothing(tmp_path: Path) -> None:
    folded = model(*NODES, c=np.array([1, np.nan, 1, 1], np.float32))
    found = Found(tmp_path, folded, model(*NODES))
    assert list(found.by_name) == ["a", "b"]


def test_what_a_branch_reads_is_what_its_result_is_computed_from(tmp_path: Path) -> None:
    arms = [
        helper.make_graph([helper.make_node(kind, ["m"], [kind])], kind, [], [value(kind, ["batch", 4])])
        for kind in ("Neg", "Abs")
    ]
    branch = helper.make_node("If", ["yes"], ["y"], name="branch", then_branch=arms[0], else_branch=arms[1])
    nodes, yes = (*NODES[:3], branch), np.array(1, np.bool_)
    found = Found(tmp_path, model(*nodes, yes=yes), model(*nodes, yes=yes, c=np.array([1, 2, -3, 4], np.float32)))
    assert found.by_name["y"].rel_l2 == found.by_name["m"].rel_l2 > 0
    assert found.by_name["y"].added == 0
