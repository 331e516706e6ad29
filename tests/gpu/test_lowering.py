"""What the step `lower` rewrites computes the same as an engine; on 8.6 all of this is said in opset 17."""

from pathlib import Path

import pytest
from onnx import helper

from tasks.core.config import RuntimeName
from tasks.core.errors import CannotRun
from tasks.core.metrics import compare, worst
from tasks.core.tolerances import AGREEMENT
from tasks.runtimes.interpreters import own
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tasks.runtimes.tensorrt_dialects import reads
from tests.runtimes.contract import Case, build, case, opened, signature_of
from tests.runtimes.test_opset import FEEDS, NODES, model

pytestmark = pytest.mark.gpu
REWRITTEN = (
    "samples: linear",
    "samples: cubic",
    "samples: nearest",
    "a pad of some axes",
    "a pad that goes round",
    "a pad that goes round more than once",
    "a resize by sizes about the centre",
    "a resize by scales about the centre",
    "scattered slices: max",
    "scattered slices: min",
    "a split with a smaller last part",
    "axes of a reduction",
    "Mean {}",
    "Mean {'noop_with_empty_axes': 1}",
    "L1 {'noop_with_empty_axes': 1}",
    "SumSquare {'noop_with_empty_axes': 1}",
    "Mish",
)


def made(folder: Path, *nodes: object) -> Case:
    graph = model(list(nodes), opset=20)  # type: ignore[arg-type]
    return case(folder, graph, signature_of({"x": ("float32", (2, 6, 8))}, {}), [FEEDS])


@pytest.mark.parametrize("what", REWRITTEN)
def test_an_engine_computes_what_the_newer_opset_says(name: RuntimeName, what: str, tmp_path: Path) -> None:
    given = made(tmp_path, *NODES[what])
    (expected,) = run_unoptimised(given.model, [FEEDS])
    with opened(name, build(name, given, tmp_path / "engine")) as session:
        actual = session.infer(FEEDS)
    assert worst(compare(actual, expected).values()).rel_l2 <= AGREEMENT["fp32"]


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_the_same_in_both_ways(name: RuntimeName, approximate: str, tmp_path: Path) -> None:
    given = made(tmp_path, helper.make_node("Gelu", ["x"], ["y"], approximate=approximate))
    (expected,) = run_unoptimised(given.model, [FEEDS])
    with opened(name, build(name, given, tmp_path / "engine")) as session:
        actual = session.infer(FEEDS)
    assert worst(compare(actual, expected).values()).rel_l2 <= AGREEMENT["fp32"]


def test_what_opset_17_cannot_say_is_refused_by_name(name: RuntimeName, tmp_path: Path) -> None:
    readable = reads(own(name), "fp32")
    if readable is None or readable.opset > 17:
        pytest.skip("this TensorRT reads a newer opset")
    given = made(
        tmp_path, helper.make_node("Resize", ["x", "", "twice"], ["y"], axes=[1, 2], mode="linear", antialias=1)
    )
    with pytest.raises(CannotRun, match=r"Resize .*antialias = 1"):
        build(name, given, tmp_path / "engine")
