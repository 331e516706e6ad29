"""The models of the onnx package's own backend tests: their inputs and outputs, and the limits that they fall under."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, numpy_helper
from onnx.onnx_cpp2py_export.checker import ValidationError
from onnxruntime.capi import onnxruntime_pybind11_state as state

CORPUS = Path(onnx.__file__).parent / "backend/test/data"
GROUPS = ("pytorch-converted", "simple", "node", "light")
# What trtflow does not take, by what its refusal has to say: any of these words names the limit.
LIMITS = {
    "strings": ("text", "string"),
    "sequences, optionals and maps": ("sequence", "optional", "map", "expected a tensor"),
    "no inputs": ("takes no input",),
    "an input without elements": ("no elements", "has 0", "found the number 0"),
    "narrow types": ("float8", "float4", "int4", "int2", "bfloat16"),
    "random or in training mode": ("random", "training"),
    "NaN on purpose": ("NaN",),
}
_NARROW = ("FLOAT8", "FLOAT4", "INT4", "INT2", "UINT4", "UINT2", "BFLOAT16")
_RANDOM = ("RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial")
_TRAINING_INPUT = 2  # of Dropout
_CANNOT_RUN = (state.Fail, state.NotImplemented, state.InvalidGraph, state.InvalidArgument, state.RuntimeException)


@dataclass
class Model:
    """One model: its test inputs and outputs by name, and the limits that it falls under.

    `ran` is what ONNX Runtime gave in a default session, `not_run` why it gave nothing.
    """

    name: str
    path: Path
    feeds: dict[str, Any] = field(default_factory=dict)
    expected: dict[str, Any] = field(default_factory=dict)
    ran: dict[str, Any] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    not_run: str = ""
    limits: tuple[str, ...] = ()


def models(groups: list[str], only: list[str]) -> Iterator[Model]:
    """Read the corpus, and have ONNX Runtime try each model."""
    onnxruntime.set_default_logger_severity(4)
    for group in groups:
        for model in _light() if group == "light" else _folders(group):
            if not only or model.name in only:
                yield tried(model)


def _folders(group: str) -> Iterator[Model]:
    for folder in sorted((CORPUS / group).iterdir()):
        if (folder / "model.onnx").is_file():
            yield Model(folder.name, folder / "model.onnx")


def _light() -> Iterator[Model]:
    for path in sorted((CORPUS / "light").glob("*.onnx")):
        yield Model(path.stem, path)


def tried(model: Model) -> Model:
    """Open a model in a default session, run it on its own test inputs, and classify it."""
    proto = onnx.load(model.path)
    try:
        session = onnxruntime.InferenceSession(str(model.path))
        model.feeds = _inputs(model, proto, [value.name for value in session.get_inputs()])
        ran = session.run(None, model.feeds)
    except (*_CANNOT_RUN, ValidationError, NotImplementedError, RuntimeError) as error:
        model.not_run = " ".join(str(error).split())[:200] or type(error).__name__
        return model
    names = [value.name for value in session.get_outputs()]
    model.ran = dict(zip(names, ran, strict=True))
    model.expected = _outputs(model, proto, names) or model.ran
    model.limits = tuple(limits_of(model, proto))
    for value in session.get_inputs():
        shape = np.shape(model.feeds[value.name]) if isinstance(model.feeds[value.name], np.ndarray) else ()
        named = zip(_named(value.name, value.shape), shape, strict=False)
        model.dims |= {dim: size for dim, size in named if isinstance(dim, str)}
    return model


def _named(name: str, shape: list[int | str | None]) -> list[int | str]:
    """Dims as trtflow calls them: one without a name or a size after its input."""
    return [f"{name}_{axis}" if dim is None or dim == -1 else dim for axis, dim in enumerate(shape)]


def _inputs(model: Model, proto: ModelProto, names: list[str]) -> dict[str, Any]:
    types = {value.name: value.type for value in proto.graph.input}
    data = model.path.parent / "test_data_set_0"
    if not data.is_dir():
        return {name: _made_up(types[name]) for name in names}
    # Files are numbered by the graph's inputs; one with a default may have none.
    files = [data / f"input_{index}.pb" for index in range(len(names))]
    return {name: read(file, types[name]) for name, file in zip(names, files, strict=True)}


def _made_up(kind: TypeProto) -> Any:  # noqa: ANN401 -- an array
    """Inputs of a light model, as onnx's own tests make them."""
    shape = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in kind.tensor_type.shape.dim]
    count = int(np.prod(shape))
    return (np.arange(count).reshape(shape) / count).astype(np.float32)


def _outputs(model: Model, proto: ModelProto, names: list[str]) -> dict[str, Any]:
    types = {value.name: value.type for value in proto.graph.output}
    data = model.path.parent / "test_data_set_0"
    if not data.is_dir():
        return {}
    return {name: read(data / f"output_{index}.pb", types[name]) for index, name in enumerate(names)}


def read(path: Path, kind: TypeProto) -> Any:  # noqa: ANN401 -- whatever the value is
    """Read one value of a test data set."""
    content = path.read_bytes()
    if kind.HasField("sequence_type"):
        return numpy_helper.to_list(onnx.SequenceProto.FromString(content))
    if kind.HasField("optional_type"):
        return numpy_helper.to_optional(onnx.OptionalProto.FromString(content))
    return numpy_helper.to_array(TensorProto.FromString(content))


def limits_of(model: Model, proto: ModelProto) -> Iterator[str]:
    """Which limits a model falls under, by its graph and its test data alone."""
    fixed = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in fixed]
    kinds = [value.type for value in (*inputs, *proto.graph.output)]
    names = [TensorProto.DataType.Name(kind.tensor_type.elem_type) for kind in kinds if kind.HasField("tensor_type")]
    if "STRING" in names:
        yield "strings"
    if any(not kind.HasField("tensor_type") for kind in kinds):
        yield "sequences, optionals and maps"
    if not inputs:
        yield "no inputs"
    if any(isinstance(feed, np.ndarray) and feed.size == 0 for feed in model.feeds.values()):
        yield "an input without elements"
    if any(name.startswith(_NARROW) for name in names):
        yield "narrow types"
    if any(_draws(node) for node in _nodes(proto)):
        yield "random or in training mode"
    if any(_has_nan(value) for value in (*model.feeds.values(), *model.expected.values())):
        yield "NaN on purpose"


def _nodes(proto: ModelProto) -> Iterator[NodeProto]:
    waiting = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for body in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                waiting += body.node


def _draws(node: NodeProto) -> bool:
    trained = any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
    told = node.op_type == "Dropout" and len(node.input) > _TRAINING_INPUT and bool(node.input[_TRAINING_INPUT])
    return node.op_type in _RANDOM or trained or told


def _has_nan(value: object) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f" and bool(np.isnan(value).any())
