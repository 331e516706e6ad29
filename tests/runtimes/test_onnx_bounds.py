"""Upper bounds of sizes that only running tells: the graph keeps to them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.external_data_helper import convert_model_to_external_data

from tasks.core.errors import StepError
from tasks.runtimes.onnx_bounds import bounded, with_bounds
from tests.projects import FLOAT, INT64, graph, value


def counting() -> onnx.ModelProto:
    """As many numbers as the input's largest value says, which no shape inference can tell."""
    nodes = [
        helper.make_node("ReduceMax", ["x"], ["most"], name="most", keepdims=0),
        helper.make_node("Cast", ["most"], ["limit"], name="limit", to=INT64),
        helper.make_node("Range", ["start", "limit", "step"], ["y"], name="count"),
    ]
    scalars = {"start": np.array(0, np.int64), "step": np.array(1, np.int64)}
    return graph(nodes, [value("x", [3], FLOAT)], [value("y", ["n"], INT64)], **scalars)


def counted(model: onnx.ModelProto | Path, most: float) -> list[int]:
    from onnxruntime import InferenceSession

    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    session = InferenceSession(source, providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.array([0, most, 1], np.float32)})
    return [int(number) for number in found]


def test_no_value_is_above_its_bound() -> None:
    model = counting()
    limited = with_bounds(model, {"limit": 5})
    onnx.checker.check_model(limited)
    assert counted(limited, 3) == [0, 1, 2]
    assert counted(limited, 9) == [0, 1, 2, 3, 4]
    assert counted(model, 9) == list(range(9))  # what was given stays as it was
    assert limited.ir_version == model.ir_version


def test_a_tensor_that_no_node_makes_is_named() -> None:
    for name in ("limits", "x", "start"):
        with pytest.raises(StepError, match=f"names '{name}', which no node of the graph makes"):
            with_bounds(counting(), {name: 5})


def test_external_weights_come_along(tmp_path: Path) -> None:
    model = counting()
    weights = onnx.numpy_helper.from_array(np.ones(3, np.float32), "w")
    model.graph.initializer.append(weights)
    model.graph.node.insert(0, helper.make_node("Mul", ["x", "w"], ["xw"], name="mul"))
    model.graph.node[1].input[0] = "xw"
    convert_model_to_external_data(model, location="model.data", size_threshold=0)
    onnx.save(model, tmp_path / "model.onnx")
    with bounded(tmp_path / "model.onnx", {"limit": 2}) as path:
        assert path.parent != tmp_path
        assert counted(path, 7) == [0, 1]
    assert not path.exists()
    with bounded(tmp_path / "model.onnx", {}) as path:
        assert path == tmp_path / "model.onnx"
