"""Outputs keep the names that the model gives them, and a cast that did nothing is no result."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.core.errors import StepError, UserCodeError
from tasks.core.tensors import save_batches
from tasks.homes import MODELOPT
from tasks.runtimes.isolate import Workers
from tasks.sources.onnx_cast import CastRequest, cast_graph
from tasks.sources.torch_module import TorchSource, output_names


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as started:
        yield started


def named(outputs: tuple[str, ...], tmp_path: Path) -> tuple[str, ...]:
    import torch

    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"logits": x, "features": 2 * x}

    source = TorchSource(project=tmp_path, factory="two:build", checkpoint=None, inputs=("x",), outputs=outputs)
    return output_names(Two(), {"x": torch.ones(2, 3)}, source)


@pytest.mark.parametrize("outputs", [(), ("logits", "features"), ("features", "logits")])
def test_a_dict_names_its_outputs_in_whatever_order_the_yaml_has_them(outputs: tuple[str, ...], tmp_path: Path) -> None:
    assert named(outputs, tmp_path) == ("logits", "features")


def test_other_names_than_those_of_the_dict_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserCodeError, match="keys logits, features"):
        named(("y", "z"), tmp_path)


def cast(workers: Workers, folder: Path, dtype: int, exclude: tuple[str, ...]) -> None:
    """Cast a graph that holds a Cast of its own."""
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=dtype),
        helper.make_node("Mul", ["c", "c"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", dtype, [2, 4])]
    outputs = [helper.make_tensor_value_info("y", dtype, [2, 4])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", inputs, outputs), opset_imports=[helper.make_opsetid("", 20)], ir_version=9
    )
    (folder / "in").mkdir()
    onnx.save(model, folder / "in" / "model.onnx")
    numpy_dtype = helper.tensor_dtype_to_np_dtype(dtype)
    save_batches(folder / "golden.safetensors", [{"x": np.ones((2, 4), numpy_dtype)}])
    (folder / "out").mkdir()
    request = CastRequest(
        model=folder / "in" / "model.onnx",
        kind="fp16",
        golden=folder / "golden.safetensors",
        calibration=None,
        exclude_nodes=(),
        exclude_op_types=exclude,
        folder=folder / "out",
    )
    workers.call(MODELOPT, cast_graph, request)


def test_a_cast_that_changed_nothing_is_refused_where_the_graph_has_casts_of_its_own(
    workers: Workers, tmp_path: Path
) -> None:
    with pytest.raises(StepError, match="fp16 changed nothing"):
        cast(workers, tmp_path, TensorProto.FLOAT, ("Mul", "Cast"))


def test_what_autocast_cannot_do_is_told_with_a_cure(workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(StepError, match="fp16 is made from fp32 only") as caught:
        cast(workers, tmp_path, TensorProto.DOUBLE, ())
    assert "precisions: [fp32]" in caught.value.cure
