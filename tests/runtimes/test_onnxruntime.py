"""What is particular to ONNX Runtime: its optimiser is not believed, and its messages are made readable."""

import hashlib
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from tasks.core.errors import CannotRun, StepError
from tasks.core.metrics import compare, worst
from tasks.core.tensors import save_batches
from tasks.core.tolerances import AGREEMENT
from tasks.runtimes import onnxruntime as module
from tasks.runtimes.base import CARD, ENGINE, physical_cores
from tasks.runtimes.load import load_runtime
from tasks.runtimes.onnxruntime import cpu_identity
from tasks.runtimes.onnxruntime_session import Level, run_unoptimised
from tests.runtimes.contract import (
    FLOAT,
    Built,
    Case,
    build,
    case,
    convolution,
    graph,
    opened,
    random,
    request,
    signature_of,
)

FP8 = TensorProto.FLOAT8E4M3FN


def quantized(folder: Path, *, half: bool) -> Case:
    """Two fp8 convolutions; with `half`, what is not quantised is fp16."""
    real, kind = (TensorProto.FLOAT16, np.float16) if half else (FLOAT, np.float32)
    nodes = [helper.make_node("Cast", ["x"], ["x0"], to=real)]
    scales = []

    def rounded(name: str, largest: float) -> str:
        scales.append(helper.make_tensor(f"{name}_scale", real, [], [largest / 448]))
        scales.append(helper.make_tensor(f"{name}_zero", FP8, [], [0]))
        given = [f"{name}_scale", f"{name}_zero"]
        nodes.append(helper.make_node("QuantizeLinear", [name, *given], [f"{name}_q"], name=f"{name}_q"))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *given], [f"{name}_d"], name=f"{name}_d"))
        return f"{name}_d"

    nodes.append(
        helper.make_node("Conv", [rounded("x0", 4), rounded("w1", 0.8), "b1"], ["c1"], pads=[1] * 4, name="c1")
    )
    nodes.append(helper.make_node("Relu", ["c1"], ["r1"], name="r1"))
    nodes.append(
        helper.make_node("Conv", [rounded("r1", 6), rounded("w2", 0.8), "b2"], ["c2"], pads=[1] * 4, name="c2")
    )
    nodes.append(helper.make_node("Cast", ["c2"], ["y"], to=FLOAT))
    weights = {
        "w1": random(1, 8, 3, 3, 3) * 0.2,
        "b1": random(2, 8),
        "w2": random(3, 4, 8, 3, 3) * 0.2,
        "b2": random(4, 4),
    }
    model = graph(
        nodes,
        [helper.make_tensor_value_info("x", FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        {name: value.astype(kind) for name, value in weights.items()},
    )
    model.graph.initializer.extend(scales)
    signature = signature_of({"x": ("float32", ("batch", 3, 16, 16))}, {"batch": (1, 2, 8)})
    return case(folder, model, signature, [{"x": random(5, 2, 3, 16, 16)}], "fp8")


def optimised_distance(given: Case) -> float:
    """How far onnxruntime's default session is from the graph, by onnxruntime alone."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(given.model, options, providers=["CPUExecutionProvider"])
    actual = dict(
        zip([output.name for output in session.get_outputs()], session.run(None, given.batches[0]), strict=True)
    )
    return worst(compare(actual, run_unoptimised(given.model, given.batches)[0]).values()).rel_l2


def assert_right(given: Case, built: Built) -> None:
    with opened("onnxruntime", built) as session:
        actual = session.infer(given.batches[0])
    error = worst(compare(actual, run_unoptimised(given.model, given.batches)[0]).values())
    assert error.rel_l2 <= AGREEMENT[given.precision]


def test_silently_wrong_optimisation_is_refused(tmp_path: Path) -> None:
    given = quantized(tmp_path, half=True)
    if optimised_distance(given) <= AGREEMENT["fp8"]:
        pytest.skip("this onnxruntime optimises fp8 beside fp16 rightly: look for another graph that it ruins")
    built = build("onnxruntime", given, tmp_path / "engine")
    assert built.metrics.optimization != "all"
    assert built.metrics.rejected[0].startswith("all: the optimised graph's outputs differ from the unoptimised one's")
    assert built.card.settings["optimization"] == built.metrics.optimization
    assert_right(given, built)


def test_optimisation_that_makes_the_graph_invalid_is_refused(tmp_path: Path) -> None:
    given = quantized(tmp_path, half=False)
    try:
        optimised_distance(given)
    except onnxruntime.capi.onnxruntime_pybind11_state.InvalidGraph:
        built = build("onnxruntime", given, tmp_path / "engine")
        assert built.metrics.optimization != "all"
        assert "QLinearConv" in built.metrics.rejected[0]
        assert_right(given, built)
    else:
        pytest.skip("this onnxruntime optimises fp8 graphs into valid ones")


def test_bound_decides_which_level_is_taken(tmp_path: Path) -> None:
    given = convolution(tmp_path)
    usual = build("onnxruntime", given, tmp_path / "usual")
    exact = build("onnxruntime", given, tmp_path / "exact", {"agreement_rel_l2": 0})
    assert (usual.metrics.optimization, usual.metrics.rejected) == ("all", ())
    assert (
        0 < (usual.metrics.agreement_rel_l2 or 0.0) < AGREEMENT["fp32"]
    )  # fusing BatchNormalization into Conv rounds otherwise
    assert exact.metrics.optimization == "disabled"
    assert [sentence.split(":")[0] for sentence in exact.metrics.rejected] == ["all", "extended", "basic"]
    assert {file.name for file in (tmp_path / "exact").iterdir()} == {ENGINE, CARD}


@pytest.mark.parametrize("level", get_args(Level))
def test_highest_level_can_be_chosen(tmp_path: Path, level: Level) -> None:
    built = build("onnxruntime", convolution(tmp_path), tmp_path / "engine", {"optimization": level})
    assert built.metrics.optimization == level


def test_engine_is_optimised_once_and_the_same_each_time(tmp_path: Path) -> None:
    given = convolution(tmp_path)
    one, two = (build("onnxruntime", given, tmp_path / folder) for folder in ("one", "two"))
    assert one.card.engine_sha256 == two.card.engine_sha256
    assert one.card.engine_sha256 == hashlib.sha256(one.engine.read_bytes()).hexdigest()
    operators = [node.op_type for node in onnx.load(one.engine, format="protobuf").graph.node]
    assert "BatchNormalization" not in operators


def test_engine_for_another_cpu_is_refused(tmp_path: Path) -> None:
    given = convolution(tmp_path)
    for level, refused in (("all", True), ("extended", False)):
        built = build("onnxruntime", given, tmp_path / level, {"optimization": level})
        elsewhere = built.card.model_copy(update={"host": cpu_identity() | {"vector_instructions": "avx"}})
        moved = Built(metrics=built.metrics, card=elsewhere, engine=built.engine)
        if refused:
            with pytest.raises(StepError, match="was optimised for the CPU"):
                opened("onnxruntime", moved)
        else:
            assert_right(given, moved)


def test_truncated_weights_beside_the_engine_are_refused(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, FLOAT, ["a", 64]) for name in "xy"]
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], values[:1], values[1:], {"w": random(1, 64, 64)})
    given = case(tmp_path, model, signature_of({"x": ("float32", ("a", 64))}, {}), [{"x": random(2, 3, 64)}])
    onnx.save(model, given.model, save_as_external_data=True, location="weights", size_threshold=1)
    built = build("onnxruntime", given, tmp_path / "engine")
    given.model.with_name("weights").unlink()
    with opened("onnxruntime", built) as session:
        assert session.infer(given.batches[0])["y"].shape == (3, 64)
    data = built.engine.with_name("weights")
    assert built.card.settings["unchanged"] == {"weights": data.stat().st_size}
    assert built.metrics.unchanged == {"weights": "weights"}
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(StepError, match="its card says"):
        opened("onnxruntime", built)


def test_card_says_how_the_session_is_made(tmp_path: Path) -> None:
    settings = build("onnxruntime", convolution(tmp_path), tmp_path / "engine").card.settings
    assert settings == {
        "optimization": "all",
        "intra_op_num_threads": physical_cores(),
        "inter_op_num_threads": 1,
        "allow_spinning": True,
        "force_spinning_stop": True,
        "providers": ["CPUExecutionProvider"],
        "data_bytes": 0,
        "unchanged": {},
    }


def test_weights_that_the_optimiser_changed_lie_beside_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [helper.make_tensor_value_info(name, FLOAT, ["a", 16, 8, 8]) for name in "xy"]
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])]
    model = graph(nodes, values[:1], values[1:], {"w": random(1, 16, 16, 3, 3)})
    signature = signature_of({"x": ("float32", ("a", 16, 8, 8))}, {})
    given = case(tmp_path, model, signature, [{"x": random(2, 3, 16, 8, 8)}])
    onnx.save(model, given.model, save_as_external_data=True, location="weights", size_threshold=1)
    # What optimising adds to the graph is too much for the engine's own file.
    monkeypatch.setattr(module, "_LARGEST_INLINE_BYTES", given.model.stat().st_size)
    expected = run_unoptimised(given.model, given.batches)
    built = build("onnxruntime", given, tmp_path / "engine")
    data = built.engine.with_name(f"{ENGINE}.data")
    assert built.metrics.unchanged == {}
    assert built.card.settings["data_bytes"] == data.stat().st_size
    given.model.with_name("weights").unlink()
    with opened("onnxruntime", built) as session:
        assert worst(compare(session.infer(given.batches[0]), expected[0]).values()).rel_l2 < AGREEMENT["fp32"]


def test_cuda_that_is_not_there_is_a_plain_error(tmp_path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("onnxruntime has CUDA here")
    with pytest.raises(StepError, match="finds no CUDA device") as refusal:
        build("onnxruntime", convolution(tmp_path), tmp_path / "engine", {"device": "cuda"})
    assert "onnxruntime-gpu" in refusal.value.cure


def test_missing_kernel_can_be_recognised(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.BFLOAT16),
        helper.make_node("MatMul", ["x16", "x16"], ["y16"], name="product"),
        helper.make_node("Cast", ["y16"], ["y"], to=FLOAT),
    ]
    values = [helper.make_tensor_value_info(name, FLOAT, [4, 4]) for name in "xy"]
    given = case(
        tmp_path, graph(nodes, values[:1], values[1:], {}), signature_of({"x": ("float32", (4, 4))}, {}), [], "bf16"
    )
    (tmp_path / "engine").mkdir()
    metrics = load_runtime("onnxruntime").build(request("onnxruntime", given, tmp_path / "engine"), tmp_path / "engine")
    assert metrics.not_run == "onnxruntime has no CPU kernel for MatMul(13) in the types of node 'product'"
    assert not list((tmp_path / "engine").iterdir())
    with pytest.raises(CannotRun):
        run_unoptimised(given.model, [{"x": np.zeros((4, 4), np.float32)}])


def test_failure_of_an_operator_is_told_without_its_source(tmp_path: Path) -> None:
    shape = np.array([-1, 4])
    model = graph(
        [helper.make_node("Reshape", ["x", "shape"], ["y"], name="square")],
        [helper.make_tensor_value_info("x", FLOAT, ["a", "b"])],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        {"shape": shape},
    )
    given = case(tmp_path, model, signature_of({"x": ("float32", ("a", "b"))}, {}), [{"x": random(1, 3, 3)}])
    with pytest.raises(StepError) as refusal:
        run_unoptimised(given.model, given.batches)
    assert refusal.value.message == (
        "running the graph failed in onnxruntime: Reshape node 'square': The input tensor cannot be reshaped to the "
        "requested shape. Input shape:{3,3}, requested shape:{-1,4}"
    )
    assert ".h:" in refusal.value.detail


def test_unknown_operator_is_named(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, FLOAT, ["a"]) for name in "xy"]
    model = graph([helper.make_node("Nonsense", ["x"], ["y"], name="n")], values[:1], values[1:], {})
    given = case(tmp_path, model, signature_of({"x": ("float32", ("a",))}, {}), [{"x": random(1, 3)}])
    with pytest.raises(StepError, match="No Op registered for Nonsense"):
        build("onnxruntime", given, tmp_path / "engine")


def test_outputs_without_a_value_fail_the_build(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, FLOAT, ["a"]) for name in "xy"]
    model = graph([helper.make_node("Log", ["x"], ["y"], name="log")], values[:1], values[1:], {})
    given = case(tmp_path, model, signature_of({"x": ("float32", ("a",))}, {}), [])
    save_batches(given.golden, [{"x": np.array([-1.0], np.float32)}])
    with pytest.raises(StepError, match=r"gives NaN on golden in \['y'\]"):
        build("onnxruntime", given, tmp_path / "engine")
