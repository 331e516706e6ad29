"""Quantising small graphs for real: what is quantised, what is refused, and that a second time gives the same bytes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tasks.core.errors import StepError
from tasks.core.metrics import compare, worst
from tasks.core.tensors import Tensors, save_batches
from tasks.homes import MODELOPT
from tasks.runtimes.isolate import Workers
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tasks.sources.onnx_qdq import bypass, quantized_nodes
from tasks.sources.onnx_quantize import QuantizeRequest, quantize_graph
from tasks.sources.typed_metrics import TypedMetrics
from tests.projects import graph, value


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as workers:
        yield workers


def net() -> onnx.ModelProto:
    """Two convolutions, and a Gemm whose weight is written the torch way round."""
    random = np.random.default_rng(1)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu_1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], name="second", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c2"], ["r2"], name="relu_2"),
        helper.make_node("Flatten", ["r2"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "w3"], ["y"], name="head", transB=1),
    ]
    weights = {
        "w1": random.normal(size=(16, 16, 3, 3)).astype(np.float32) / 12,
        "w2": random.normal(size=(16, 16, 3, 3)).astype(np.float32) / 12,
        "w3": random.normal(size=(32, 1024)).astype(np.float32) / 32,
    }
    return graph(nodes, [value("x", ["batch", 16, 8, 8])], [value("y", ["batch", 32])], **weights)


def batches(count: int = 2) -> list[Tensors]:
    random = np.random.default_rng(2)
    return [{"x": random.normal(size=(8, 16, 8, 8)).astype(np.float32)} for _ in range(count)]


def prepared(folder: Path, model: onnx.ModelProto, **changes: object) -> QuantizeRequest:
    for part in ("source", "out"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, folder / "source" / "model.onnx")
    save_batches(folder / "calibration.safetensors", batches())
    request = QuantizeRequest(
        model=folder / "source" / "model.onnx",
        kind="int8",
        method="max",
        tool="modelopt",
        calibration=folder / "calibration.safetensors",
        exclude_nodes=(),
        exclude_op_types=(),
        folder=folder / "out",
    )
    return request.model_copy(update=changes)


def quantized(workers: Workers, request: QuantizeRequest) -> TypedMetrics:
    return workers.call(MODELOPT, quantize_graph, request, request.folder / "scratch")


KINDS = [
    (("int8", "max", "modelopt"), 0.03, {"Conv"}),
    (("int8", "entropy", "modelopt"), 0.3, {"Conv"}),
    (("int8", "max", "onnxruntime"), 0.03, {"Conv", "Gemm"}),
    (("fp8", "max", "modelopt"), 0.1, {"Gemm"}),
    (("int4", "rtn", "modelopt"), 0.2, {"Gemm"}),
    (("int4", "awq", "modelopt"), 0.2, {"Gemm"}),
]


@pytest.mark.parametrize(("how", "bound", "operators"), KINDS)
def test_a_graph_is_quantised_and_stays_near_the_one_it_was(
    workers: Workers, tmp_path: Path, how: tuple[str, str, str], bound: float, operators: set[str]
) -> None:
    kind, method, tool = how
    request = prepared(tmp_path, net(), kind=kind, method=method, tool=tool)
    before = request.model.read_bytes()
    metrics = quantized(workers, request)
    made = tmp_path / "out" / "model.onnx"
    assert operators <= set(metrics.quantized)
    assert metrics.dequantize_nodes
    assert not onnx.load(made).graph.value_info
    assert request.model.read_bytes() == before
    pair = [run_unoptimised(path, batches(1)) for path in (made, request.model)]
    error = worst(compare(pair[0][0], pair[1][0]).values())
    assert 0 < error.rel_l2 < bound


@pytest.mark.parametrize(("kind", "method", "tool"), [("int8", "max", "modelopt"), ("int4", "awq", "modelopt")])
def test_the_same_graph_gives_the_same_bytes_in_another_folder(
    workers: Workers, tmp_path: Path, kind: str, method: str, tool: str
) -> None:
    made = []
    for name in ("one", "another_folder"):
        quantized(workers, prepared(tmp_path / name, net(), kind=kind, method=method, tool=tool))
        made.append((tmp_path / name / "out" / "model.onnx").read_bytes())
    assert made[0] == made[1]


def test_onnxruntimes_quantiser_leaves_the_opset_as_it_is(workers: Workers, tmp_path: Path) -> None:
    """TensorRT 8.6 reads opsets up to 17, and ModelOpt raises them to 19 at least."""
    old = net()
    old.opset_import[0].version, old.ir_version = 17, 8
    metrics = quantized(workers, prepared(tmp_path, old, tool="onnxruntime"))
    assert (metrics.facts.opset, metrics.facts.ir_version) == (17, 8)
    made = onnx.load(tmp_path / "out" / "model.onnx")
    zeros = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    for node in made.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert not zeros[node.input[2]].any()  # symmetric


def test_int4_blocks_run_along_the_reduction_axis_of_a_transposed_gemm(workers: Workers, tmp_path: Path) -> None:
    quantized(workers, prepared(tmp_path, net(), kind="int4", method="rtn"))
    made = onnx.load(tmp_path / "out" / "model.onnx")
    (gemm,) = (node for node in made.graph.node if node.op_type == "Gemm")
    assert not any(attribute.name == "transB" and attribute.i for attribute in gemm.attribute)
    (scale,) = (tensor for tensor in made.graph.initializer if tensor.name.startswith("w3") and "scale" in tensor.name)
    assert list(scale.dims) == [1024 // 128, 32]


@pytest.mark.parametrize(
    ("exclude", "left"),
    [({"exclude_nodes": ("fir.*",)}, {"second"}), ({"exclude_nodes": ("first", "second")}, set())],
)
def test_what_is_excluded_stays_in_float(
    workers: Workers, tmp_path: Path, exclude: dict[str, Any], left: set[str]
) -> None:
    request = prepared(tmp_path, net(), tool="modelopt", exclude_op_types=("Gemm",), **exclude)
    if not left:
        with pytest.raises(StepError, match="int8 changed nothing: modelopt quantises convolutions"):
            quantized(workers, request)
        return
    quantized(workers, request)
    made = onnx.load(tmp_path / "out" / "model.onnx")
    assert {node.name for node in quantized_nodes(made)} == left


REFUSED = [
    ({"exclude_nodes": ("frist",)}, "exclude.nodes: 'frist' matches no node", "did you mean 'first'"),
    ({"exclude_op_types": ("conv",)}, "the graph has no node of type 'conv'", "did you mean 'Conv'"),
]


@pytest.mark.parametrize(("changes", "message", "cure"), REFUSED)
def test_an_exclusion_that_means_nothing_is_refused(
    workers: Workers, tmp_path: Path, changes: dict[str, Any], message: str, cure: str
) -> None:
    with pytest.raises(StepError, match=message) as refusal:
        quantized(workers, prepared(tmp_path, net(), **changes))
    assert cure in refusal.value.cure


def test_a_graph_without_anything_to_quantise_is_refused_with_the_reason(workers: Workers, tmp_path: Path) -> None:
    plain = graph(
        [helper.make_node("Relu", ["x"], ["y"])], [value("x", ["b", 16, 8, 8])], [value("y", ["b", 16, 8, 8])]
    )
    for kind, method in (("int8", "max"), ("int4", "rtn")):
        with pytest.raises(StepError, match=rf"{kind} changed nothing.*\(Relu\)|cannot quantise"):
            quantized(workers, prepared(tmp_path / kind, plain, kind=kind, method=method))


def test_a_quantised_graph_is_not_quantised_again(workers: Workers, tmp_path: Path) -> None:
    quantized(workers, prepared(tmp_path / "a", net()))
    again = prepared(tmp_path / "b", onnx.load(tmp_path / "a" / "out" / "model.onnx"))
    with pytest.raises(StepError, match="holds Q/DQ nodes already") as refusal:
        quantized(workers, again)
    assert "typed" in refusal.value.cure


def test_awq_refuses_batches_of_several_shapes(workers: Workers, tmp_path: Path) -> None:
    request = prepared(tmp_path, net(), kind="int4", method="awq")
    other: list[Tensors] = [{"x": np.zeros((8, 16, 8, size), np.float32)} for size in (8, 9)]
    save_batches(tmp_path / "calibration.safetensors", other)
    with pytest.raises(StepError, match=r"of one shape.*\[16, 8, 8\] and \[16, 8, 9\]"):
        quantized(workers, request)


def test_weights_beside_the_model_stay_beside_it(workers: Workers, tmp_path: Path) -> None:
    request = prepared(tmp_path, net(), kind="int4", method="rtn")
    request.model.unlink()
    onnx.save_model(net(), request.model, save_as_external_data=True, location="model.onnx.data", size_threshold=64)
    metrics = quantized(workers, request)
    assert metrics.facts.external_files == ("model.onnx.data",)
    run_unoptimised(tmp_path / "out" / "model.onnx", batches(1))


def test_passing_every_pair_by_gives_back_the_graph_exactly(workers: Workers, tmp_path: Path) -> None:
    request = prepared(tmp_path, net())
    quantized(workers, request)
    made = onnx.load(tmp_path / "out" / "model.onnx")
    bypass(made, {node.name for node in quantized_nodes(made)})
    assert not {node.op_type for node in made.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    assert {tensor.name for tensor in made.graph.initializer} == {"w1", "w2", "w3"}
    onnx.save_model(made, tmp_path / "float.onnx")
    found, expected = (run_unoptimised(path, batches(1))[0]["y"] for path in (tmp_path / "float.onnx", request.model))
    assert np.array_equal(found, expected)


def test_a_pair_that_another_node_reads_stays() -> None:
    scale, zero = np.float32(0.1), np.int8(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("Relu", ["d"], ["a"], name="one"),
        helper.make_node("Neg", ["d"], ["b"], name="other"),
    ]
    model = graph(nodes, [value("x", [4])], [value("a", [4]), value("b", [4])], s=np.array(scale), z=np.array(zero))
    assert [(node.name, node.op_type) for node in quantized_nodes(model)] == [("one", "Relu"), ("other", "Neg")]
    bypass(model, {"one"})
    by_name = {node.name: list(node.input) for node in model.graph.node if node.name}
    assert by_name == {"one": ["x"], "other": ["d"]}
    bypass(model, {"other"})
    assert [node.op_type for node in model.graph.node] == ["Relu", "Neg"]
    assert not model.graph.initializer


def mlp(*names: str) -> onnx.ModelProto:
    """A chain of products of 32 x 32, whose nodes have these names."""
    random = np.random.default_rng(6)
    nodes, source, weights = [], "x", {}
    for index, name in enumerate(names):
        weights[f"w{index}"] = random.normal(size=(32, 32)).astype(np.float32) / 6
        nodes.append(helper.make_node("MatMul", [source, f"w{index}"], [f"m{index}"], name=name))
        source = f"m{index}"
    return graph(nodes, [value("x", ["batch", 32])], [value(source, ["batch", 32])], **weights)


def chained(folder: Path, model: onnx.ModelProto, rows: int = 16, **changes: object) -> QuantizeRequest:
    request = prepared(folder, model, **changes)
    feeds: list[Tensors] = [{"x": np.random.default_rng(7).normal(size=(rows, 32)).astype(np.float32)}]
    save_batches(folder / "calibration.safetensors", feeds)
    return request


def quantised_names(folder: Path) -> set[str]:
    return {node.name for node in quantized_nodes(onnx.load(folder / "out" / "model.onnx")) if node.op_type == "MatMul"}


@pytest.mark.parametrize(
    ("kind", "method", "tool"),
    [
        ("int8", "max", "modelopt"),
        ("fp8", "max", "modelopt"),
        ("int4", "rtn", "modelopt"),
        ("int8", "max", "onnxruntime"),
    ],
)
def test_a_pattern_means_whole_names_with_every_tool(
    workers: Workers, tmp_path: Path, kind: str, method: str, tool: str
) -> None:
    request = chained(tmp_path, mlp("mm", "mm2", "mm3"), kind=kind, method=method, tool=tool, exclude_nodes=("mm",))
    quantized(workers, request)
    assert quantised_names(tmp_path) == {"mm2", "mm3"}


@pytest.mark.parametrize(("kind", "tool"), [("int8", "modelopt"), ("int4", "modelopt"), ("int8", "onnxruntime")])
def test_excluding_every_node_of_a_type_leaves_nothing_quantised(
    workers: Workers, tmp_path: Path, kind: str, tool: str
) -> None:
    method = "rtn" if kind == "int4" else "max"
    request = chained(tmp_path, mlp("a", "b"), kind=kind, method=method, tool=tool, exclude_op_types=("MatMul",))
    with pytest.raises(StepError, match=f"{kind} changed nothing.*once `exclude` is obeyed|cannot quantise"):
        quantized(workers, request)


def test_awq_takes_one_product_behind_the_other(workers: Workers, tmp_path: Path) -> None:
    quantized(workers, chained(tmp_path, mlp("a", "b", "c"), kind="int4", method="awq"))
    assert quantised_names(tmp_path) == {"a", "b", "c"}


@pytest.mark.parametrize("rows", [1, 3])
def test_few_samples_a_batch_do_not_decide_what_is_quantised(workers: Workers, tmp_path: Path, rows: int) -> None:
    quantized(workers, chained(tmp_path, mlp("a", "b"), rows=rows))
    assert quantised_names(tmp_path) == {"a", "b"}


def test_a_pair_behind_an_output_is_taken_away(workers: Workers, tmp_path: Path) -> None:
    request = chained(tmp_path, mlp("a", "b"), tool="onnxruntime")
    quantized(workers, request)
    made = onnx.load(tmp_path / "out" / "model.onnx")
    assert made.graph.output[0].name == "m1"
    bypass(made, {"a", "b"})
    assert not {node.op_type for node in made.graph.node} & {"QuantizeLinear", "DequantizeLinear"}


def test_a_weight_that_a_branch_reads_too_is_left_as_it_is(workers: Workers, tmp_path: Path) -> None:
    random = np.random.default_rng(8)
    branches = {
        f"{name}_branch": helper.make_graph(
            [helper.make_node(op, ["g", "w"], [f"{name}_y"])], name, [], [value(f"{name}_y", ["batch", 32])]
        )
        for name, op in (("then", "MatMul"), ("else", "Add"))
    }
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["g"], name="gemm", transB=1),
        helper.make_node("ReduceSum", ["g"], ["total"], name="total", keepdims=0),
        helper.make_node("Greater", ["total", "low"], ["yes"], name="greater"),
        helper.make_node("If", ["yes"], ["y"], name="if", **branches),
    ]
    weights: dict[str, Any] = {
        "w": random.normal(size=(32, 32)).astype(np.float32) / 6,
        "low": np.array(-1e9, np.float32),
    }
    model = graph(nodes, [value("x", ["batch", 32])], [value("y", ["batch", 32])], **weights)
    request = chained(tmp_path, model, kind="int4", method="rtn")
    quantized(workers, request)
    feeds: list[Tensors] = [{"x": random.normal(size=(4, 32)).astype(np.float32)}]
    found, expected = (run_unoptimised(path, feeds)[0] for path in (tmp_path / "out" / "model.onnx", request.model))
    assert worst(compare(found, expected).values()).rel_l2 < 0.3
