"""Polygraphy's TrtRunner runs our plans too: once for each kind of engine, and it agrees with our session."""

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from tasks.core.config import RuntimeName
from tasks.core.metrics import compare, worst
from tasks.core.tensors import Tensors
from tests.gpu.conftest import needs
from tests.runtimes.contract import Built, Case, build, case, convolution, opened

pytestmark = pytest.mark.gpu


def half(folder: Path) -> Case:
    """The net in fp16 between casts, as the precisions step types it: inputs and outputs stay as they are."""
    plain = convolution(folder)
    model = onnx.load(plain.model)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(
            onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
        )
    for node in model.graph.node:
        for names in (node.input, node.output):
            for index, found in enumerate(names):
                names[index] = {"image": "image_half", "logits": "logits_half"}.get(found, found)
    before = helper.make_node("Cast", ["image"], ["image_half"], name="in", to=onnx.TensorProto.FLOAT16)
    after = helper.make_node("Cast", ["logits_half"], ["logits"], name="out", to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(0, before)
    model.graph.node.append(after)
    return case(folder, model, plain.signature, plain.batches, "fp16")


def quantised(folder: Path) -> Case:
    """The net with Q/DQ around its convolution."""
    plain = convolution(folder)
    model = onnx.load(plain.model)
    scales = {"image_scale": np.float32(0.03), "w1_scale": np.float32(0.03), "zero": np.int8(0)}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(np.array(v), k) for k, v in scales.items())
    pairs: list[onnx.NodeProto] = []
    for name in ("image", "w1"):
        pairs += [
            helper.make_node("QuantizeLinear", [name, f"{name}_scale", "zero"], [f"{name}_q"], name=f"{name}_Q"),
            helper.make_node(
                "DequantizeLinear", [f"{name}_q", f"{name}_scale", "zero"], [f"{name}_dq"], name=f"{name}_DQ"
            ),
        ]
    convolved = model.graph.node[0]
    convolved.input[0], convolved.input[1] = "image_dq", "w1_dq"
    nodes = [*pairs, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return case(folder, model, plain.signature, plain.batches, "int8")


@pytest.mark.parametrize("make", [convolution, half, quantised], ids=["fp32", "fp16", "int8"])
def test_our_session_agrees(
    name: RuntimeName,
    tmp_path: Path,
    make: Any,  # noqa: ANN401 - one of three makers
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needs("polygraphy")
    if import_module("tensorrt").__version__.startswith("8."):
        monkeypatch.setattr("polygraphy.backend.trt.util.get_tensor_format", _format)
    _needs_cuda_runtime()
    given: Case = make(tmp_path)
    built = build(name, given, tmp_path / "engine")
    with opened(name, built) as session:
        ours = [session.infer(feeds) for feeds in given.batches]
    for left, right in zip(ours, _polygraphy(built, given.batches), strict=True):
        assert worst(compare(left, right).values()).max_abs_error <= 1e-4


def _format(engine: Any, context: object, name: str) -> object:  # noqa: ANN401 - of a module value
    """Ask for a tensor's format without a profile: 8.6.1 ends in a segmentation fault where one is given."""
    del context
    return engine.get_tensor_format(name)


def _needs_cuda_runtime() -> None:
    """Polygraphy copies by the CUDA runtime, which neither pycuda nor TensorRT bring as a library of its own."""
    from polygraphy import cuda
    from polygraphy.exception import PolygraphyException

    try:
        cuda.wrapper()
    except (OSError, PolygraphyException) as error:
        pytest.skip(f"Polygraphy finds no CUDA runtime (the package nvidia-cuda-runtime has it): {error}")


def _polygraphy(built: Built, batches: list[Tensors]) -> list[Tensors]:
    from polygraphy.backend.common import BytesFromPath
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    with TrtRunner(EngineFromBytes(BytesFromPath(str(built.engine)))) as runner:
        return [{key: np.array(value) for key, value in runner.infer(feeds).items()} for feeds in batches]
