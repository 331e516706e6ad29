"""A graph's dynamic axes get the names that the YAML declares; -1 is an axis without a name."""

import onnx
import pytest
from onnx import ModelProto, helper

from tasks.core.config import PipelineConfig
from tasks.core.errors import ConfigError
from tasks.core.signature import DimRange, InputSpec, Signature
from tasks.inspect import signature_of
from tasks.sources.onnx_axes import name_axes, renamed_shapes
from tasks.sources.onnx_graph import read_facts
from tests.projects import graph, linear, value

BATCH = {"batch": {"min": 1, "opt": 4, "max": 8}}


def _sum(*inputs: tuple[int | str | None, ...], output: tuple[int | str | None, ...]) -> ModelProto:
    names = [f"x{index}" for index in range(len(inputs))]
    values = [value(name, shape) for name, shape in zip(names, inputs, strict=True)]
    return graph([helper.make_node("Sum", names, ["y"])], values, [value("y", output)])


def _signature(model: ModelProto, **sections: object) -> Signature:
    config = PipelineConfig.model_validate({"model": {"onnx": "model.onnx"}, **sections})
    return signature_of("a", config, read_facts(model))


def _declared(**shapes: list[int | str]) -> dict[str, object]:
    return {name: {"dtype": "float32", "shape": shape} for name, shape in shapes.items()}


@pytest.mark.parametrize("size", [-1, -2, None, ""])
def test_an_axis_without_a_name_is_called_after_its_tensor(size: int | str | None) -> None:
    facts = read_facts(_sum((size, 4), output=(size, 4)))
    assert facts.inputs["x0"].shape == ("x0_0", 4)
    assert facts.outputs["y"].shape == ("y_0", 4)


@pytest.mark.parametrize(
    ("graph_shapes", "declared", "expected"),
    [
        ({"a": ("a_0", 4), "b": ("b_0", 3)}, {"a": ("n", 4), "b": ("n", 3)}, {"a": ("n", 4), "b": ("n", 3)}),
        ({"a": ("N", 4), "b": ("N",)}, {"a": ("n", 4)}, {"a": ("n", 4), "b": ("n",)}),
        ({"a": ("N", "N"), "b": ("N",)}, {"a": ("n", "m")}, {"a": ("n", "m"), "b": ("N",)}),
        ({"a": ("N", 4), "b": ("N",)}, {"a": (5, 4)}, {"a": (5, 4), "b": (5,)}),
        ({"a": ("N", 4), "b": (4, "M")}, {}, {"a": ("N", 4), "b": (4, "M")}),
    ],
)
def test_a_declared_name_is_that_of_the_axis_in_every_input(
    graph_shapes: dict[str, tuple[int | str, ...]],
    declared: dict[str, tuple[int | str, ...]],
    expected: dict[str, tuple[int | str, ...]],
) -> None:
    assert renamed_shapes(graph_shapes, declared) == expected


def test_the_graph_gets_the_names_of_the_signature() -> None:
    model = _sum((-1, 4), ("N", 4), output=(-1, 4))
    model.graph.value_info.append(value("inner", ["N", 4]))
    signature = _signature(model, inputs=_declared(x0=["batch", 4], x1=["batch", 4]), dims=BATCH)
    assert name_axes(model, signature)
    facts = read_facts(model)
    assert [tensor.shape for tensor in facts.inputs.values()] == [("batch", 4), ("batch", 4)]
    assert facts.outputs["y"].shape == ("y_0", 4)
    assert model.graph.value_info[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    onnx.checker.check_model(model, full_check=True)
    assert not name_axes(model, signature)


def test_a_name_that_became_two_is_taken_from_the_other_tensors() -> None:
    model = _sum(("N", "N"), output=("N", "N"))
    signature = _signature(
        model, inputs=_declared(x0=["batch", "side"]), dims={**BATCH, "side": {"min": 1, "opt": 4, "max": 8}}
    )
    assert name_axes(model, signature)
    assert read_facts(model).outputs["y"].shape == ("y_0", "y_1")


def test_a_declared_size_fixes_an_axis() -> None:
    model = _sum(("N", 4), output=("N", 4))
    signature = _signature(model, inputs=_declared(x0=[5, 4]))
    assert signature == Signature(inputs={"x0": InputSpec(dtype="float32", shape=(5, 4))}, dims={})
    assert name_axes(model, signature)
    assert read_facts(model).outputs["y"].shape == (5, 4)


def test_a_graph_with_its_own_names_stays_as_it_is() -> None:
    model = linear("batch")
    before = model.SerializeToString()
    signature = _signature(model, dims=BATCH)
    assert signature.dims == {"batch": DimRange(min=1, opt=4, max=8)}
    assert not name_axes(model, signature)
    assert model.SerializeToString() == before


def test_dims_of_inputs_that_are_not_declared_are_known_from_the_graph() -> None:
    signature = _signature(
        _sum(("batch", 4), ("batch", "seq"), output=("batch", 4)),
        inputs=_declared(x0=["batch", 4]),
        dims={**BATCH, "seq": {"min": 1, "opt": 4, "max": 8}},
    )
    assert signature.inputs["x1"].shape == ("batch", "seq")


@pytest.mark.parametrize(
    ("sections", "words", "cure"),
    [
        ({}, "dynamic dims ['x0_0', 'x1_0']", "`dims: {x0_0: {min: 1"),
        ({"dims": BATCH}, "dynamic dims ['x0_0', 'x1_0']", "x0: {dtype: float32, shape: [batch, 4]}, x1: {dtype"),
        ({"dims": {"x0_0": BATCH["batch"], "x1_O": BATCH["batch"]}}, "['x1_0']", "did you mean 'x1_0'?"),
        ({"inputs": _declared(x0=["batch", 5]), "dims": BATCH}, "declared as float32 ['batch', 5]", "leave it out"),
        ({"inputs": _declared(x0=["batch"]), "dims": BATCH}, "declared as float32 ['batch']", "leave it out"),
        ({"inputs": _declared(x=["batch", 4]), "dims": BATCH}, "the graph has no input 'x'", "did you mean 'x"),
        (
            {"dims": {"x0_0": BATCH["batch"], "x1_0": BATCH["batch"], "x1_1": BATCH["batch"]}},
            "no dims ['x1_1']",
            "did you mean 'x1_0'?",
        ),
    ],
)
def test_what_does_not_fit_the_graph_is_told(sections: dict[str, object], words: str, cure: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _signature(_sum((-1, 4), (None, 4), output=(-1, 4)), **sections)
    assert words in caught.value.message
    assert cure in caught.value.cure
