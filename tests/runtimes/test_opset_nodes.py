"""ONNX's own test models of each operator: in opset 17 they give the same on ONNX Runtime, or are refused."""

import collections
import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from tasks.core.errors import CannotRun
from tasks.core.tensors import Tensors
from tasks.runtimes.opset.lower import lower_opset, newest_opset
from tasks.runtimes.opset.rules import EXPANDED, RULES, TYPES

OPSET, IR = 17, 8
MODELS = Path(onnx.__file__).parent / "backend" / "test" / "data" / "node"
CHANGED = {
    *(name for name, _ in EXPANDED),
    *(name for name, version in RULES if name not in TYPES.get(version, ())),
} - {"Cast", "CastLike"}  # of which there are hundreds, for each pair of types
# The scores that Attention can give beside its output: ONNX Runtime 1.31 gives others than ONNX's data say.
UNLIKE = "qk_matmul"
# A sum in another order, and as many roundings as an expanded operator has.
NEAR = {"float16": 5e-3, "float32": 2e-5, "float64": 1e-9}


def cases() -> Iterator[tuple[str, onnx.ModelProto, Tensors]]:
    for folder in sorted(MODELS.iterdir()):
        model = onnx.load(folder / "model.onnx")
        wanted = CHANGED & {node.op_type for node in model.graph.node}
        if not wanted or newest_opset(model) <= OPSET or UNLIKE in folder.name or "expanded" in folder.name:
            continue
        if all(value.type.HasField("tensor_type") for value in model.graph.input):
            files = [folder / "test_data_set_0" / f"input_{index}.pb" for index in range(len(model.graph.input))]
            names = [value.name for value in model.graph.input]
            yield folder.name, model, {name: read(file) for name, file in zip(names, files, strict=True)}


def read(file: Path) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    tensor = onnx.TensorProto()
    tensor.ParseFromString(file.read_bytes())
    return numpy_helper.to_array(tensor)


def known(model: onnx.ModelProto, feeds: Tensors) -> tuple[onnx.ModelProto, Tensors]:
    """The same with axes, sizes, scales and places as constants, which is how models have them."""
    if not model.graph.input:
        return model, feeds
    first, *others = model.graph.input
    kept = [first, *(value for value in others if feeds[value.name].dtype.kind == "f" and feeds[value.name].size > 16)]
    made = copy.deepcopy(model)
    names = {value.name for value in kept}
    del made.graph.input[:]
    made.graph.input.extend(kept)
    made.graph.initializer.extend(
        numpy_helper.from_array(value, name) for name, value in feeds.items() if name not in names
    )
    return made, {name: value for name, value in feeds.items() if name in names}


def outputs(model: onnx.ModelProto, feeds: Tensors) -> "list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]":
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(array) for array in session.run(None, feeds)]


def became(name: str, model: onnx.ModelProto, feeds: Tensors) -> str:
    try:
        expected = outputs(model, feeds)
    except Exception:  # noqa: BLE001 - of many kinds; what ONNX Runtime does not run is nothing to compare with
        return "not run"
    try:
        lowered = lower_opset(copy.deepcopy(model), OPSET, IR)
    except CannotRun:
        return "refused"
    for actual, wanted in zip(outputs(lowered, feeds), expected, strict=True):
        assert (actual.dtype, actual.shape) == (wanted.dtype, wanted.shape), name
        near = NEAR.get(str(wanted.dtype), 0.0)
        same = np.isclose(actual, wanted, rtol=near, atol=near, equal_nan=wanted.dtype.kind == "f")
        assert np.all(same), name
    return "same"


@pytest.mark.parametrize("constants", [False, True], ids=["as they are", "with constants"])
def test_models_of_changed_operators(*, constants: bool) -> None:
    found: collections.Counter[str] = collections.Counter()
    for name, model, feeds in cases():
        found[became(name, *(known(model, feeds) if constants else (model, feeds)))] += 1
    assert found["same"] >= (270 if constants else 190), found
    assert found["refused"] <= (40 if constants else 120), found
