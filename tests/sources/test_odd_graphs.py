"""Every precision tool on graphs that break them: it is right, or the cause is told in words of ours."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.core.errors import DoesNotApply, StepError
from tasks.core.metrics import compare, worst
from tasks.core.tensors import Tensors, save_batches
from tasks.homes import MODELOPT
from tasks.runtimes.isolate import Workers
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tasks.sources.handed_back import check_handed_back
from tasks.sources.library_call import call_library
from tasks.sources.onnx_cast import CastRequest, cast_graph
from tasks.sources.onnx_fold import FoldRequest, fold_graph
from tasks.sources.onnx_graph import read_facts
from tasks.sources.onnx_quantize import QuantizeRequest, quantize_graph
from tests.projects import FLOAT, graph, value

node = helper.make_node
RANDOM = np.random.default_rng(3)
X, Y = [value("x", ["batch", 32])], [value("y", ["batch", 32])]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as started:
        yield started


def weights(*names: str) -> "dict[str, np.ndarray[Any, Any]]":
    return {name: RANDOM.standard_normal((32, 32)).astype(np.float32) * np.float32(0.2) for name in names}


def passed_on() -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "w"], ["y"])]
    return graph(nodes, [*X, value("s", ["batch", 2])], [*Y, value("s", ["batch", 2])], **weights("w"))


def looping() -> onnx.ModelProto:
    body = helper.make_graph(
        [node("MatMul", ["a", "w"], ["b"]), node("Tanh", ["b"], ["d"])],
        "body",
        [value("i", [], TensorProto.INT64), value("c", [], TensorProto.BOOL), value("a", ["batch", 32])],
        [value("c", [], TensorProto.BOOL), value("d", ["batch", 32])],
    )
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Loop", ["times", "yes", "h"], ["l"], body=body),
        node("MatMul", ["l", "v"], ["y"]),
    ]
    return graph(nodes, X, Y, times=np.array(2), yes=np.array(1, np.bool_), **weights("w", "v"))


def in_sequence() -> onnx.ModelProto:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("SequenceConstruct", ["h", "x"], ["q"]),
        node("SequenceAt", ["q", "zero"], ["a"]),
        node("MatMul", ["a", "v"], ["y"]),
    ]
    return graph(nodes, X, Y, zero=np.array(0), **weights("w", "v"))


def old() -> onnx.ModelProto:
    """Operators whose axes were attributes, and a Softmax that flattened."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Unsqueeze", ["h"], ["u"], axes=[1]),
        node("Softmax", ["u"], ["p"]),
        node("ReduceSum", ["p"], ["q"], axes=[1], keepdims=0),
        node("MatMul", ["q", "v"], ["y"]),
    ]
    model = graph(nodes, X, Y, **weights("w", "v"))
    model.ir_version, model.opset_import[0].version = 6, 11
    return model


def long(count: int = 400) -> onnx.ModelProto:
    names = ["x", *(f"t{index}" for index in range(count))]
    nodes = [node("Tanh" if i % 2 else "Neg", [names[i]], [names[i + 1]]) for i in range(count)]
    return graph([*nodes, node("MatMul", [names[-1], "w"], ["y"])], X, Y, **weights("w"))


def oddly_named() -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "/w:0"], ["größe h"], name="x"), node("MatMul", ["größe h", "v"], ["y"], name="(a[")]
    return graph(nodes, X, Y, **{"/w:0": weights("w")["w"], **weights("v")})


GRAPHS = [passed_on, looping, in_sequence, old, long, oddly_named]


def folded(folder: Path, model: onnx.ModelProto) -> tuple[Path, list[Tensors]]:
    for name in ("source", "folded", "made"):
        (folder / name).mkdir()
    onnx.save(model, folder / "source" / "model.onnx")
    feeds: list[Tensors] = [
        {each.name: RANDOM.standard_normal((4, 2 if each.name == "s" else 32)).astype(np.float32)}
        for each in model.graph.input
    ]
    batch: Tensors = {name: array for each in feeds for name, array in each.items()}
    save_batches(folder / "golden", [batch])
    request = FoldRequest(
        model=folder / "source" / "model.onnx", tool="graphsurgeon", golden=folder / "golden", folder=folder / "folded"
    )
    assert not fold_graph(request).left_out
    return folder / "folded" / "model.onnx", [batch]


def cast(workers: Workers, folder: Path, model: Path) -> Path:
    request = CastRequest(
        model=model,
        kind="fp16",
        golden=folder / "golden",
        calibration=None,
        exclude_nodes=(),
        exclude_op_types=(),
        folder=folder / "made",
    )
    workers.call(MODELOPT, cast_graph, request, folder / "made" / "scratch")
    return folder / "made" / "model.onnx"


def quantized(workers: Workers, folder: Path, model: Path, tool: str) -> Path:
    request = QuantizeRequest.model_validate(
        {
            "model": model,
            "kind": "int8",
            "method": "max",
            "tool": tool,
            "calibration": folder / "golden",
            "exclude_nodes": (),
            "exclude_op_types": (),
            "folder": folder / "made",
        }
    )
    workers.call(MODELOPT, quantize_graph, request, folder / "made" / "scratch")
    return folder / "made" / "model.onnx"


@pytest.mark.parametrize("make", GRAPHS)
@pytest.mark.parametrize("tool", ["autocast", "modelopt", "onnxruntime"])
def test_an_odd_graph_is_lowered_rightly(
    workers: Workers, tmp_path: Path, make: "Callable[[], onnx.ModelProto]", tool: str
) -> None:
    source, batches = folded(tmp_path, make())
    here = sorted(Path.cwd().iterdir())
    made = cast(workers, tmp_path, source) if tool == "autocast" else quantized(workers, tmp_path, source, tool)
    assert sorted(Path.cwd().iterdir()) == here
    before, after = (read_facts(onnx.load(path)) for path in (source, made))
    assert (after.inputs, after.outputs) == (before.inputs, before.outputs)
    (actual,), (expected,) = run_unoptimised(made, batches), run_unoptimised(source, batches)
    assert worst(compare(actual, expected).values()).rel_l2 < (0.01 if tool == "autocast" else 0.1)
    if "s" in expected:
        assert np.array_equal(actual["s"], expected["s"])


def test_operators_of_onnxruntimes_own_are_named(workers: Workers, tmp_path: Path) -> None:
    nodes = [node("FusedMatMul", ["x", "w"], ["h"], domain="com.microsoft"), node("MatMul", ["h", "v"], ["y"])]
    model = graph(nodes, X, Y, **weights("w", "v"))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    source, _ = folded(tmp_path, model)
    with pytest.raises(DoesNotApply, match=re.escape("FusedMatMul (com.microsoft)")):
        cast(workers, tmp_path, source)
    here = sorted(Path.cwd().iterdir())
    assert quantized(workers, tmp_path, source, "modelopt").exists()
    assert sorted(Path.cwd().iterdir()) == here


def test_a_graph_in_fp64_is_a_stated_limit(workers: Workers, tmp_path: Path) -> None:
    double = TensorProto.DOUBLE
    model = graph(
        [node("MatMul", ["x", "w"], ["y"])],
        [value("x", ["batch", 32], double)],
        [value("y", ["batch", 32], double)],
        w=np.ones((32, 32)),
    )
    onnx.save(model, tmp_path / "model.onnx")
    (tmp_path / "made").mkdir()
    with pytest.raises(DoesNotApply, match="fp64, and int8 is made from fp32 only"):
        quantized(workers, tmp_path, tmp_path / "model.onnx", "onnxruntime")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (KeyError("__state"), "a fault inside it stopped it ('__state')"),
        (NameError("name 'trt' is not defined"), "a fault inside it stopped it (name 'trt' is not defined)"),
        (RecursionError("maximum recursion depth exceeded"), "its nodes stand in too long a row"),
        (RuntimeError("InferenceError: no shape"), "no shape"),
    ],
)
def test_what_a_library_raises_is_told_without_names_of_pythons_own(
    tmp_path: Path, error: Exception, says: str
) -> None:
    def run() -> None:
        raise error

    with pytest.raises(DoesNotApply) as caught:
        call_library("the tool cannot do it", tmp_path, run, "do without")
    assert caught.value.message == f"the tool cannot do it: {says}"


def test_a_library_works_in_its_own_folder_and_as_deep_as_it_needs(tmp_path: Path) -> None:
    def deep(count: int) -> int:
        return count and 1 + deep(count - 1)

    assert call_library("it fails", tmp_path / "work", lambda: (deep(50_000), Path.cwd().name), "") == (50_000, "work")


def test_a_graph_that_comes_back_with_another_interface_or_invalid_is_refused() -> None:
    source = graph([node("Relu", ["x"], ["y"])], X, Y)
    other = graph([node("Relu", ["x"], ["z"])], X, [value("z", ["batch", 32])])
    with pytest.raises(StepError, match="changed the outputs of the graph: z float32"):
        check_handed_back(other, source, "the tool")
    renamed = graph([node("Relu", ["x"], ["y"])], [value("x", ["unk__0", 32])], [value("y", ["unk__1", 32])])
    check_handed_back(renamed, source, "the tool")
    assert read_facts(renamed).outputs == read_facts(source).outputs
    broken = graph([node("Relu", ["lost"], ["y"])], X, [value("y", ["batch", 32], FLOAT)])
    with pytest.raises(StepError, match="cannot be used: it is not valid ONNX"):
        check_handed_back(broken, source, "the tool")
