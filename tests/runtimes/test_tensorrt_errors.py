"""Errors of TensorRT say where and what to do: as far as they can be had without a GPU, from the real library."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Final

import numpy as np
import onnx
import pytest
from onnx import helper

from tasks.core.errors import CannotRun, StepError
from tasks.core.tensors import save_batches
from tasks.runtimes.base import BuildRequest
from tasks.runtimes.load import load_runtime
from tasks.runtimes.tensorrt_calibrator import calibration_batches
from tasks.runtimes.tensorrt_dialects import dialect_of
from tasks.runtimes.tensorrt_errors import Origins, cure_for, memory_figures, places
from tasks.runtimes.tensorrt_network import BuildSettings, Messages, TensorRtOptions, logger_of, parse, readable
from tasks.runtimes.tensorrt_refit import weights_by_role
from tests.projects import graph, value
from tests.runtimes.contract import Case, convolution, random, request, sentences, signature_of

RTX: Final = "tensorrt-rtx"
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra tensorrt-rtx is not installed"
)
_TRACE = 'File "/usr/lib/torch/nn.py", line 1, in _call\n    x\nFile "models/net.py", line 42, in forward\n    y'


@pytest.fixture
def given(tmp_path: Path) -> Case:
    return convolution(tmp_path)


def asked(given: Case, folder: Path, **changes: object) -> BuildRequest:
    folder.mkdir()
    return request(RTX, given, folder).model_copy(update=changes)


def failure(wanted: BuildRequest) -> StepError:
    with pytest.raises(StepError) as raised:
        load_runtime(RTX).build(wanted, wanted.folder)
    return raised.value


def version(number: str) -> ModuleType:
    """A TensorRT as far as its line in the table goes."""
    module = ModuleType("tensorrt")
    module.__version__ = number  # type: ignore[attr-defined]
    return module


@needs_rtx
def test_a_node_that_is_not_taken_is_told_with_its_operator_and_source(given: Case, tmp_path: Path) -> None:
    node = helper.make_node("Det", ["x"], ["y"], name="determinant")
    model, path = graph([node], [value("x", [2, 3, 3])], [value("y", [2])]), tmp_path / "det.onnx"
    onnx.save(model, path)
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.stack_trace", value=_TRACE)
    model.graph.node[0].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'head.volume', 'det']")
    onnx.save(model, tmp_path / "exported.onnx")
    told = failure(
        asked(
            given,
            tmp_path / "engine",
            model=path,
            exported=tmp_path / "exported.onnx",
            signature=signature_of({"x": ("float32", (2, 3, 3))}, {}),
        )
    ).message
    assert "node 'determinant', operator Det, made by module head.volume, models/net.py:42" in told


@needs_rtx
def test_an_operator_of_a_plugin_asks_for_its_library(given: Case, tmp_path: Path) -> None:
    node = helper.make_node("Mine", ["x"], ["y"], name="mine", domain="my.own")
    model, path = graph([node], [value("x", [2, 3])], [value("y", [2, 3])]), tmp_path / "mine.onnx"
    model.opset_import.append(helper.make_opsetid("my.own", 1))
    onnx.save(model, path)
    error = failure(
        asked(given, tmp_path / "engine", model=path, signature=signature_of({"x": ("float32", (2, 3))}, {}))
    )
    assert "operator Mine of domain my.own" in error.message
    assert "options.plugins" in error.cure


@needs_rtx
def test_a_plugin_that_is_not_there_is_named(given: Case, tmp_path: Path) -> None:
    missing = str(tmp_path / "libmine.so")
    error = failure(asked(given, tmp_path / "engine", options={"plugins": [missing]}))
    assert missing in error.message


@needs_rtx
def test_only_8_6_calibrates_by_itself(given: Case, tmp_path: Path) -> None:
    error = failure(asked(given, tmp_path / "engine", calibration=given.golden, precision="int8"))
    assert "no calibrator" in error.message
    assert "Q/DQ" in error.cure


@needs_rtx
def test_an_engine_that_cannot_be_built_leaves_a_reason_and_no_file(given: Case, tmp_path: Path) -> None:
    if load_runtime(RTX).probe().devices:
        pytest.skip("there is a GPU here, on which refittable engines are built")
    wanted = asked(given, tmp_path / "engine", options={"refittable": True})
    assert "could not build model.onnx" in failure(wanted).message
    assert not list(wanted.folder.iterdir())


@needs_rtx
@pytest.mark.parametrize("make", [convolution, sentences])
def test_every_weight_of_a_network_is_found_by_layer_and_role(make: type, tmp_path: Path) -> None:
    """What an engine of 8.6 is refitted with; a BatchNormalization is two weights that the parser itself computes."""
    import tensorrt_rtx as trt

    case: Case = make(tmp_path)
    settings = BuildSettings(
        model=case.model, kind="fp32", signature=case.signature, options=TensorRtOptions(), folder=tmp_path
    )
    parsed = parse(trt, logger_of(trt, Messages()), settings)
    found = {place: np.asarray(weights) for place, weights in weights_by_role(trt, parsed.network).items()}
    held = {tuple(array.ravel()[:5]) for array in found.values() if array.size > 1}
    wanted = {"convolution": [random(1, 8, 1, 3, 3), random(2, 8), random(7, 8, 10)], "sentences": [random(1, 20, 6)]}
    for array in wanted[make.__name__]:
        assert tuple(array.ravel()[:5]) in held
    if make is convolution:
        scale = random(3, 8) / np.sqrt(np.abs(random(6, 8)) + 1 + 1e-5)
        scales = next(weights for (_, role), weights in found.items() if role == "SCALE")
        np.testing.assert_allclose(scales, scale, rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "named"), [("BFLOAT16", "BFLOAT16"), ("FLOAT8E4M3FN", "FLOAT8E4M3FN"), ("INT4", "INT4")]
)
def test_8_6_names_the_type_that_it_does_not_know(kind: str, named: str, tmp_path: Path) -> None:
    number = onnx.TensorProto.DataType.Value(kind)
    nodes = [
        helper.make_node("Cast", ["x"], ["low"], name="down", to=number),
        helper.make_node("Cast", ["low"], ["y"], name="up", to=onnx.TensorProto.FLOAT),
    ]
    onnx.save(graph(nodes, [value("x", [2])], [value("y", [2])]), tmp_path / "model.onnx")
    with pytest.raises(CannotRun, match=f"TensorRT 8.6 does not know {named}, which the graph has at 'down'"):
        readable(tmp_path / "model.onnx", dialect_of(version("8.6.1")))
    readable(tmp_path / "model.onnx", dialect_of(version("11.4.0")))


def test_no_kernel_and_no_memory_tell_the_figures() -> None:
    said = "Could not find any implementation for node {ForeignNode[a...b]}."
    cure = cure_for(said, "else", "workspace_bytes is 1 GiB")
    assert "workspace_bytes is 1 GiB" in cure
    assert "raise workspace_bytes" in cure
    assert "too little free memory" in cure_for("Requested amount of GPU memory could not be allocated", "else")
    assert cure_for("something else", "else") == "else"
    assert memory_figures(2**30, 4 * 2**30) == "1.00 GiB of the GPU's 4.00 GiB are free"


def test_nodes_that_a_message_names_are_found_whole() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"], name="relu_1"), helper.make_node("Neg", ["a"], ["y"], name="relu")]
    model = graph(nodes, [value("x", [2])], [value("y", [2])])
    told = places("no implementation for node relu_1.", model, Origins(lines={"a": "net.py:3"}))
    assert told == " (relu_1 is Relu, made by net.py:3)"


def test_a_calibrator_is_asked_for_whole_batches_of_the_opt_size(tmp_path: Path) -> None:
    signature = signature_of({"x": ("float32", ("batch", 3))}, {"batch": (1, 4, 8)})
    path = tmp_path / "calibration.safetensors"
    save_batches(path, [{"x": random(1, 3, 3)}, {"x": random(2, 7, 3)}])
    batches = calibration_batches(path, signature)
    assert [batch["x"].shape for batch in batches] == [(4, 3), (4, 3)]
    every = np.concatenate([random(1, 3, 3), random(2, 7, 3)])
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in batches]), every[:8])
    save_batches(path, [{"x": random(1, 3, 3)}])
    (only,) = calibration_batches(path, signature)
    np.testing.assert_array_equal(only["x"], np.concatenate([random(1, 3, 3), random(1, 3, 3)[:1]]))
