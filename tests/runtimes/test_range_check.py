"""An engine that is wrong at some size of the range is found, and the step that made it so is named."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tasks.core.metrics import OutputError
from tasks.core.range_points import range_points
from tasks.core.signature import DimRange, InputSpec, Signature
from tasks.core.tensors import save_batches
from tasks.core.tolerances import PARITY
from tasks.runtimes.onnxruntime_session import open_unoptimised, run_batches
from tasks.runtimes.range_check import GraphHop, RangeReply, RangeRequest, compare_range
from tasks.verify_range import RangeMetrics, range_problem

SIGNATURE = Signature(
    inputs={"x": InputSpec(dtype="float32", shape=("batch", 6))}, dims={"batch": DimRange(min=1, opt=4, max=12)}
)
STEPS = ("export", "fold", "quantize")
GOLDEN = np.random.default_rng(3).standard_normal((4, 6), dtype=np.float32)
ERROR = OutputError(max_abs_error=0.0, rel_l2=0.0, cosine=1.0)


def graph(kind: str) -> onnx.ModelProto:
    """Sums of halves of each row; wrong in one of the ways in which converters were."""
    shape = {"right": [-1, 2, 3], "baked": [4, 2, 3], "mixed": [2, -1, 3]}.get(kind, [-1, 2, 3])
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["split"]),
        helper.make_node("ReduceSum", ["split", "axes"], ["summed"], keepdims=0),
        helper.make_node("Mul", ["summed", "factor"], ["y"]),
    ]
    factor = np.float32(1.01 if kind == "scaled" else 1)
    constants = {"shape": np.array(shape), "axes": np.array([2]), "factor": factor}
    made = helper.make_graph(
        nodes,
        "halves",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


@dataclass(frozen=True)
class Hops:
    """The kinds of the graphs between source and engine, and of the engine."""

    export: str = "right"
    fold: str = "right"
    quantize: str = "right"
    build: str = "right"


def compared(folder: Path, hops: Hops) -> RangeReply:
    paths = {}
    for kind in ("right", "baked", "mixed", "scaled"):
        paths[kind] = folder / kind / "model.onnx"
        paths[kind].parent.mkdir(exist_ok=True)
        onnx.save(graph(kind), paths[kind])
    points = range_points(SIGNATURE.dims)
    feeds = [point.feeds({"x": GOLDEN}, SIGNATURE) for point in points]
    save_batches(folder / "golden.safetensors", [{"x": GOLDEN}])
    save_batches(folder / "source.safetensors", run_batches(open_unoptimised(paths["right"]), feeds))
    ran, failed, outputs = [], [], list[dict[str, Any]]()
    session = open_unoptimised(paths[hops.build if hops.build != "right" else hops.quantize])
    for point, batch in zip(points, feeds, strict=True):
        try:
            outputs += run_batches(session, [batch])
            ran.append(point)
        except Exception as error:  # noqa: BLE001 - as an engine that does not run
            failed.append((point, str(error)))
    save_batches(folder / "engine.safetensors", outputs)
    request = RangeRequest(
        precision="fp32",
        golden=folder / "golden.safetensors",
        signature=SIGNATURE,
        source=points,
        source_outputs=folder / "source.safetensors",
        engine=tuple(ran),
        engine_outputs=folder / "engine.safetensors",
        failed=tuple(failed),
        graphs=tuple(GraphHop(step=step, model=paths[getattr(hops, step)], bound=PARITY["fp32"]) for step in STEPS),
    )
    return compare_range(request)


def problem(reply: RangeReply) -> str:
    metrics = RangeMetrics(points=reply.points, verified={})
    return range_problem(metrics, PARITY["fp32"], ERROR)


def test_an_engine_that_is_right_at_every_size_has_no_problem(tmp_path: Path) -> None:
    reply = compared(tmp_path, Hops())
    assert len(reply.points) == 4
    assert problem(reply) == ""


@given(st.sampled_from(["baked", "mixed", "scaled"]), st.sampled_from([*STEPS, "build"]))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_engine_passes_that_holds_for_some_sizes_only(tmp_path: Path, kind: str, step: str) -> None:
    later = [*STEPS, "build"][[*STEPS, "build"].index(step) :]
    told = problem(compared(tmp_path, Hops(**dict.fromkeys(later, kind))))
    assert "the engine does not compute what the source does at batch = " in told
    assert f"made by the step `{step}`" in told


def test_the_sizes_that_are_right_are_named(tmp_path: Path) -> None:
    told = problem(compared(tmp_path, Hops(fold="baked", quantize="baked", build="baked")))
    assert "it does at batch = 4" in told


@pytest.mark.parametrize(("rel_l2", "wrong"), [(0.3, False), (0.5, True)])
def test_what_the_metric_accepted_on_golden_inputs_is_no_fault_of_a_size(*, rel_l2: float, wrong: bool) -> None:
    error = OutputError(max_abs_error=1.0, rel_l2=rel_l2, cosine=0.97)
    golden = OutputError(max_abs_error=1.0, rel_l2=0.2, cosine=0.98)
    reply = RangeReply.model_validate({"points": [{"point": {"sizes": {"batch": 1}}, "error": error}]})
    found = range_problem(RangeMetrics(points=reply.points, verified={}), PARITY["int8"], golden)
    assert bool(found) is wrong
