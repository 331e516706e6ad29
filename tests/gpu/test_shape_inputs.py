"""An input whose values decide a shape: they are read on the host, and other values give another shape."""

from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from tasks.core.config import RuntimeName
from tasks.core.tensors import Tensors
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tests.projects import FLOAT, INT64, graph, value
from tests.runtimes.contract import Case, build, case, opened, signature_of

pytestmark = pytest.mark.gpu


def feeds(height: int, width: int) -> Tensors:
    """An image of a fixed size, and the size that it is to have."""
    image = np.random.default_rng(height).standard_normal((1, 3, 8, 8)).astype(np.float32)
    return {"x": image, "size": np.array([height, width])}


def resizing(tmp_path: Path) -> Case:
    """An image, resized to what an integer input says."""
    nodes = [
        helper.make_node("Concat", ["head", "size"], ["to"], axis=0, name="to"),
        helper.make_node("Resize", ["x", "", "", "to"], ["y"], mode="linear", name="resize"),
    ]
    inputs = [value("x", [1, 3, 8, 8], FLOAT), value("size", [2], INT64)]
    model = graph(nodes, inputs, [value("y", [1, 3, "height", "width"], FLOAT)], head=np.array([1, 3]))
    signature = signature_of({"x": ("float32", (1, 3, 8, 8)), "size": ("int64", (2,))}, {})
    size = signature.inputs["size"].model_copy(update={"range": (4, 24)})
    signature = signature.model_copy(update={"inputs": {**signature.inputs, "size": size}})
    return case(tmp_path, model, signature, [feeds(16, 12)])


def test_each_run_has_the_sizes_that_it_is_given(name: RuntimeName, tmp_path: Path) -> None:
    given = resizing(tmp_path)
    batches = [feeds(16, 12), feeds(4, 24), feeds(24, 24), feeds(4, 4), feeds(4, 4)]
    with opened(name, build(name, given, tmp_path / "engine")) as session:
        found = [session.infer(batch) for batch in batches]
    for actual, expected in zip(found, run_unoptimised(given.model, batches), strict=True):
        assert np.allclose(actual["y"].astype(np.float32), expected["y"].astype(np.float32), rtol=1e-4, atol=1e-5)
