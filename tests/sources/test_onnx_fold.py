"""Folding never changes what a graph computes, and leaves out what would."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tasks.core.tensors import Tensors, save_batches
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tasks.sources import onnx_fold
from tasks.sources.fold_check import first_difference, invalid
from tasks.sources.onnx_fold import FoldMetrics, FoldRequest, Tool, fold_graph
from tasks.sources.onnx_normalise import graphs_of
from tests.projects import FLOAT, INT64, graph, value

node = helper.make_node


def folded(
    folder: Path, model: onnx.ModelProto, feeds: Tensors, tool: Tool = "graphsurgeon"
) -> tuple[FoldMetrics, onnx.ModelProto]:
    """Fold a graph, and check that it computes what it did."""
    (folder / "source").mkdir(parents=True, exist_ok=True)
    (folder / "folded").mkdir(exist_ok=True)
    source = folder / "source" / "model.onnx"
    onnx.save(model, source)
    save_batches(folder / "golden.safetensors", [feeds])
    metrics = fold_graph(
        FoldRequest(model=source, tool=tool, golden=folder / "golden.safetensors", folder=folder / "folded")
    )
    made = folder / "folded" / "model.onnx"
    assert not invalid(onnx.load(made))
    assert not first_difference(run_unoptimised(made, [feeds]), run_unoptimised(source, [feeds]))
    return metrics, onnx.load(made)


def operators(model: onnx.ModelProto) -> list[str]:
    return [each.op_type for each in model.graph.node]


def halved() -> onnx.ModelProto:
    """(lengths.float() * 0.5).long(): GraphSurgeon takes the casts for needless, and 0.5 becomes 0."""
    nodes = [
        node("Cast", ["x"], ["f"], to=FLOAT),
        node("Mul", ["f", "half"], ["m"]),
        node("Cast", ["m"], ["y"], to=INT64),
    ]
    return graph(nodes, [value("x", ["batch"], INT64)], [value("y", ["batch"], INT64)], half=np.array(0.5, np.float32))


@pytest.mark.parametrize("tool", ["graphsurgeon", "polygraphy", "none"])
def test_a_truncation_stays(tmp_path: Path, tool: Tool) -> None:
    metrics, made = folded(tmp_path, halved(), {"x": np.arange(7)}, tool)
    assert operators(made) == ["Cast", "Mul", "Cast"]
    assert not metrics.left_out


def reshaped(*, stale: bool) -> onnx.ModelProto:
    """A size is read by the end of a Shape, beside one that only feeds decide."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Shape", ["h"], ["first"], start=0, end=1),
        node("Shape", ["h"], ["last"], start=1),
        node("Concat", ["first", "two", "half"], ["to"], axis=0),
        node("Div", ["last", "two"], ["half"]),
        node("Reshape", ["h", "to"], ["y"]),
    ]
    nodes[3], nodes[4] = nodes[4], nodes[3]
    weights = {"w": np.ones((16, 12), np.float32), "two": np.array([2])}
    model = graph(nodes, [value("x", ["batch", 16])], [value("y", ["batch", 2, 6])], **weights)
    if stale:
        model.graph.value_info.append(value("h", [8, 12]))
    return model


@pytest.mark.parametrize("stale", [False, True])
def test_only_sizes_that_no_feed_changes_are_folded(tmp_path: Path, *, stale: bool) -> None:
    feeds: Tensors = {"x": np.ones((3, 16), np.float32)}
    metrics, made = folded(tmp_path, reshaped(stale=stale), feeds)
    assert sorted(operators(made)) == ["Concat", "MatMul", "Reshape", "Shape"]
    assert not metrics.left_out
    assert not made.graph.value_info


def noisy(operator: str, *, inside: bool) -> onnx.ModelProto:
    """Noise of constants alone, in the graph or in the branch of an If."""
    extra: dict[str, Any] = {"shape": [1, 4]} if operator in ("RandomNormal", "RandomUniform") else {}
    noise = node(operator, [] if extra else ["p"], ["n"], **extra)
    weights = {"p": np.full((1, 4), 0.5, np.float32)}
    if not inside:
        nodes = [noise, node("Cast", ["n"], ["f"], to=FLOAT), node("Add", ["x", "f"], ["y"])]
        return graph(nodes, [value("x", ["batch", 4])], [value("y", ["batch", 4])], **weights)
    then = helper.make_graph([noise, node("Cast", ["n"], ["f"], to=FLOAT)], "then", [], [value("f", [1, 4])])
    other = helper.make_graph([node("Identity", ["p"], ["o"])], "else", [], [value("o", [1, 4])])
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Cast", ["s"], ["c"], to=TensorProto.BOOL),
        node("If", ["c"], ["i"], then_branch=then, else_branch=other),
        node("Add", ["x", "i"], ["y"]),
    ]
    return graph(nodes, [value("x", ["batch", 4])], [value("y", ["batch", 4])], **weights)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("operator", ["RandomNormal", "RandomUniform", "RandomNormalLike", "Bernoulli"])
@pytest.mark.parametrize("tool", ["graphsurgeon", "polygraphy"])
def test_noise_is_no_constant(tmp_path: Path, tool: Tool, operator: str, *, inside: bool) -> None:
    source = tmp_path / "model.onnx"
    onnx.save(noisy(operator, inside=inside), source)
    feeds: Tensors = {"x": np.ones((2, 4), np.float32)}
    save_batches(tmp_path / "golden", [feeds])
    (tmp_path / "out").mkdir()
    fold_graph(FoldRequest(model=source, tool=tool, golden=tmp_path / "golden", folder=tmp_path / "out"))
    made = onnx.load(tmp_path / "out" / "model.onnx")
    found = [each.op_type for part in graphs_of(made.graph) for each in part.node]
    assert operator in found


def branching() -> onnx.ModelProto:
    """An If whose condition is a constant, in whose branch stands another one."""
    inner = [
        helper.make_graph([node("Mul", ["h", "k"], ["a"])], "then", [], [value("a", ["batch", 4])]),
        helper.make_graph([node("Neg", ["h"], ["a"])], "else", [], [value("a", ["batch", 4])]),
    ]
    outer = helper.make_graph(
        [
            node("Add", ["x", "one"], ["h"]),
            node("Constant", [], ["k"], value=numpy_helper.from_array(np.array(3, np.float32))),
            node("Not", ["no"], ["yes"]),
            node("If", ["yes"], ["a2"], then_branch=inner[0], else_branch=inner[1]),
        ],
        "outer",
        [],
        [value("a2", ["batch", 4]), value("h", ["batch", 4])],
    )
    never = helper.make_graph(
        [node("Identity", ["x"], ["b"]), node("Identity", ["x"], ["c"])],
        "never",
        [],
        [value("b", ["batch", 4]), value("c", ["batch", 4])],
    )
    nodes = [node("Not", ["no"], ["c0"]), node("If", ["c0"], ["y", "z"], then_branch=outer, else_branch=never)]
    outputs = [value("y", ["batch", 4]), value("z", ["batch", 4])]
    return graph(nodes, [value("x", ["batch", 4])], outputs, no=np.array(0, np.bool_), one=np.array(1, np.float32))


def test_a_branch_that_is_always_taken_stands_in_the_place_of_its_if(tmp_path: Path) -> None:
    metrics, made = folded(tmp_path, branching(), {"x": np.ones((2, 4), np.float32)})
    assert "If" not in operators(made)
    assert not metrics.left_out


def test_a_large_constant_made_of_a_number_is_not_written_out(tmp_path: Path) -> None:
    fill = numpy_helper.from_array(np.array([0.5], np.float32))
    nodes = [
        *(node("ConstantOfShape", [f"s{index}"], [f"big{index}"], value=fill) for index in range(6)),
        node("Sum", [f"big{index}" for index in range(6)], ["sum"]),
        *(node("Mul", ["x", f"big{index}"], [f"y{index}"]) for index in range(6)),
    ]
    outputs = [value(f"y{index}", ["batch", 240, 1024]) for index in range(6)]
    shapes = {f"s{index}": np.array([240, 1024]) for index in range(6)}
    ones: Tensors = {"x": np.ones((1, 1, 1), np.float32)}
    metrics, made = folded(tmp_path, graph(nodes, [value("x", ["batch", 1, 1])], outputs, **shapes), ones)
    assert made.ByteSize() < 1 << 20
    assert metrics.left_out == ("all of it",)
    assert "its constants grow" in metrics.reason


def test_what_folding_makes_wrong_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool whose result computes something else is not believed: here one that believes a wrong size."""

    def wrong(model: onnx.ModelProto) -> int:
        next(each for each in model.graph.node if each.op_type == "Neg").op_type = "Abs"
        return 1

    monkeypatch.setattr(onnx_fold, "fold_shapes", wrong)
    model = graph([node("Neg", ["x"], ["y"])], [value("x", ["batch", 4])], [value("y", ["batch", 4])])
    metrics, made = folded(tmp_path, model, {"x": np.ones((2, 4), np.float32)})
    assert metrics.left_out[-1] == "shapes"
    assert metrics.reason == "output 'y' differs in 8 of 8 values"
    assert operators(made) == ["Neg"]


_UNARY = ("Neg", "Abs", "Relu", "Floor", "Identity")
_BINARY = ("Add", "Sub", "Mul", "Max")


def one(draw: st.DrawFn, kind: str, name: str, floats: list[str], ints: list[str]) -> list[onnx.NodeProto]:
    """Nodes of one kind, the last of which gives the tensor `name`."""
    from_float = draw(st.sampled_from(floats))
    match kind:
        case "unary":
            return [node(draw(st.sampled_from(_UNARY)), [from_float], [name])]
        case "binary":
            return [node(draw(st.sampled_from(_BINARY)), [from_float, draw(st.sampled_from(floats))], [name])]
        case "cast":
            return [node("Cast", [draw(st.sampled_from(ints))], [name], to=FLOAT)]
        case "whole":
            return [node("Cast", [from_float], [name], to=INT64)]
        case "shape":
            start, end = draw(st.integers(-2, 0)), draw(st.integers(-1, 2))
            of = node("Shape", [from_float], [f"{name}s"], start=start, end=end)
            return [of, node("ReduceSum", [f"{name}s"], [name], keepdims=0)]
        case _:
            bodies = [branch(each, from_float, name + each) for each in ("Neg", "Abs")]
            return [node("If", ["yes"], [name], then_branch=bodies[0], else_branch=bodies[1])]


def branch(operator: str, source: str, name: str) -> onnx.GraphProto:
    return helper.make_graph([node(operator, [source], [name])], operator, [], [shapeless(name, FLOAT)])


def shapeless(name: str, dtype: int) -> onnx.ValueInfoProto:
    made = onnx.ValueInfoProto(name=name)
    made.type.tensor_type.elem_type = dtype
    return made


@st.composite
def graphs(draw: st.DrawFn) -> onnx.ModelProto:
    """Small graphs in which casts, shapes, constants and branches feed each other."""
    nodes: list[onnx.NodeProto] = []
    floats, ints = ["x", "k"], ["n"]
    for index in range(draw(st.integers(2, 10))):
        kind = draw(st.sampled_from(["unary", "binary", "cast", "shape", "whole", "branch"]))
        nodes += one(draw, kind, f"t{index}", floats, ints)
        (ints if kind in ("shape", "whole") else floats).append(f"t{index}")
    nodes += [node("Add", ["x", floats[-1]], ["y"]), node("Identity", [ints[-1]], ["z"])]
    outputs = [shapeless("y", FLOAT), shapeless("z", INT64)]
    yes = np.array(draw(st.booleans()))
    inputs = [value("x", ["batch", 4])]
    return graph(nodes, inputs, outputs, k=np.array(0.5, np.float32), n=np.array(3), yes=yes)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(model=graphs(), batch=st.integers(1, 3))
def test_folding_never_changes_what_a_graph_computes(tmp_path: Path, model: onnx.ModelProto, batch: int) -> None:
    feeds: Tensors = {"x": np.linspace(-3, 3, batch * 4, dtype=np.float32).reshape(batch, 4)}
    metrics, _ = folded(tmp_path, model, feeds)
    assert not metrics.left_out
    other: Tensors = {"x": np.linspace(-2, 9, 20, dtype=np.float32).reshape(5, 4)}
    before, after = (run_unoptimised(tmp_path / part / "model.onnx", [other]) for part in ("source", "folded"))
    assert not first_difference(after, before)
