"""An output keeps its name where the graph already uses that name inside."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from tasks.core.sets import GOLDEN_OUTPUTS
from tasks.core.signature import DimRange, InputSpec, Signature
from tasks.core.tensors import load_batches, save_batches
from tasks.homes import TORCH
from tasks.runtimes.isolate import Workers
from tasks.sources.torch_export import TorchExportRequest, export_torch
from tasks.sources.torch_module import TorchSource

# torch calls what an nn.Embedding gives `embedding`, and the bias of the linear layer `linear.bias`.
NET = """
def build():
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(16, 4)
            self.linear = torch.nn.Linear(4, 4)

        def forward(self, ids):
            return self.linear(self.words(ids)).tanh()

    torch.manual_seed(0)
    return Net()
"""


@pytest.mark.parametrize("output", ["embedding", "linear.bias"])
def test_an_output_may_have_a_name_that_the_graph_uses_inside(output: str, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    ids = np.arange(6, dtype=np.int64).reshape(2, 3)
    save_batches(tmp_path / "golden.safetensors", [{"ids": ids}])
    (tmp_path / "out").mkdir()
    request = TorchExportRequest(
        source=TorchSource(project=tmp_path, factory="net:build", checkpoint=None, inputs=("ids",), outputs=(output,)),
        signature=Signature(
            inputs={"ids": InputSpec(dtype="int64", shape=("batch", 3))}, dims={"batch": DimRange(min=1, opt=2, max=8)}
        ),
        opset=20,
        exporter="dynamo",
        golden=tmp_path / "golden.safetensors",
        evaluation=None,
        folder=tmp_path / "out",
    )
    with Workers() as workers:
        workers.call(TORCH, export_torch, request)
    path = tmp_path / "out" / "model.onnx"
    onnx.checker.check_model(str(path), full_check=True)
    (found,) = onnxruntime.InferenceSession(path).run([output], {"ids": ids})
    (expected,) = load_batches(tmp_path / "out" / GOLDEN_OUTPUTS)
    assert np.allclose(found, expected[output], atol=1e-6)
