"""TensorRT-RTX builds on any CPU: what is true of it is checked on the real parser and builder."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tasks.core.config import RuntimeName
from tasks.core.errors import CannotRun, StepError
from tasks.core.signature import Signature
from tasks.runtimes.base import ENGINE, BuildRequest, OpenOptions, read_card
from tasks.runtimes.load import load_runtime
from tasks.runtimes.tensorrt_dialects import dialect_named
from tasks.runtimes.tensorrt_network import readable
from tests.projects import QUICK, Project, graph, linear, value
from tests.runtimes.contract import Case, convolution, request, signature_of

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra tensorrt-rtx is not installed"
)
NAME: RuntimeName = "tensorrt-rtx"


@pytest.fixture
def given(tmp_path: Path) -> Case:
    return convolution(tmp_path)


def asked(given: Case, folder: Path, **changes: object) -> BuildRequest:
    folder.mkdir()
    return request(NAME, given, folder).model_copy(update=changes)


def test_an_engine_is_built_without_a_gpu_and_not_run(given: Case, tmp_path: Path) -> None:
    wanted = asked(given, tmp_path / "engine")
    runtime = load_runtime(NAME)
    if not runtime.probe().not_run:
        pytest.skip("there is a GPU here")
    metrics = runtime.build(wanted, wanted.folder)
    card = read_card(wanted.folder / "card.json")
    assert metrics.size_bytes == card.engine_bytes == (wanted.folder / ENGINE).stat().st_size > 0
    assert "built by tensorrt_rtx" in metrics.not_run
    assert card.inputs[0].shape == ("batch", 1, 8, 8)
    with pytest.raises(CannotRun, match="no NVIDIA GPU here"):
        runtime.open(wanted.folder / ENGINE, card, OpenOptions())


def test_a_card_states_the_dtypes_of_model_and_engine(tmp_path: Path) -> None:
    """No TensorRT has float64; int64 is missing in 8.6 alone."""
    nodes = [
        helper.make_node("Cast", ["x"], ["narrow"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["narrow", "factor"], ["y"]),
        helper.make_node("ReduceSum", ["y"], ["total"], keepdims=0),
        helper.make_node("Not", ["flags"], ["off"]),
        helper.make_node("Add", ["ids", "ids"], ["twice"]),
    ]
    inputs = [
        value("x", [2, 3], TensorProto.DOUBLE),
        value("factor", []),
        value("flags", ["batch"], TensorProto.BOOL),
        value("ids", ["batch"], TensorProto.INT64),
    ]
    outputs = [value("y", [2, 3]), value("total", []), value("off", ["batch"], TensorProto.BOOL)]
    outputs.append(value("twice", ["batch"], TensorProto.INT64))
    outputs[0].type.tensor_type.ClearField("shape")
    onnx.save(graph(nodes, inputs, outputs), tmp_path / "types.onnx")
    kinds: dict[str, tuple[str, tuple[int | str, ...]]] = {
        "x": ("float64", (2, 3)),
        "factor": ("float32", ()),
        "flags": ("bool", ("batch",)),
        "ids": ("int64", ("batch",)),
    }
    signature = signature_of(kinds, {"batch": (1, 2, 4)})
    given = convolution(tmp_path)
    wanted = asked(given, tmp_path / "engine", model=tmp_path / "types.onnx", signature=signature)
    runtime = load_runtime(NAME)
    if not runtime.probe().not_run:
        pytest.skip("there is a GPU here, and golden inputs are of another model")
    runtime.build(wanted, wanted.folder)
    card = read_card(wanted.folder / "card.json")
    assert [(spec.name, spec.dtype, spec.engine_dtype, spec.shape) for spec in (*card.inputs, *card.outputs)] == [
        ("x", "float64", "float32", (2, 3)),
        ("factor", "float32", "", ()),
        ("flags", "bool", "", ("batch",)),
        ("ids", "int64", "", ("batch",)),
        ("y", "float32", "", (2, 3)),  # no shape was declared: the parser inferred it
        ("total", "float32", "", ()),
        ("off", "bool", "", ("batch",)),
        ("twice", "int64", "", ("batch",)),
    ]
    older = json.loads((wanted.folder / "card.json").read_text())
    for spec in (*older["inputs"], *older["outputs"]):
        del spec["engine_dtype"]
    (wanted.folder / "card.json").write_text(json.dumps(older))
    assert {spec.engine_dtype for spec in read_card(wanted.folder / "card.json").inputs} == {""}


def _resizing(tmp_path: Path, bounds: tuple[float, float] | None) -> tuple[Path, Signature]:
    """A net whose output has the size that an integer input says."""
    nodes = [
        helper.make_node("Concat", ["head", "size"], ["to"], axis=0),
        helper.make_node("Resize", ["x", "", "", "to"], ["y"], mode="linear"),
    ]
    inputs = [value("x", [1, 3, "side", "side"]), value("size", [2], TensorProto.INT64)]
    outputs = [value("y", [1, 3, "height", "width"])]
    onnx.save(graph(nodes, inputs, outputs, head=np.array([1, 3])), tmp_path / "resize.onnx")
    kinds: dict[str, tuple[str, tuple[int | str, ...]]] = {
        "x": ("float32", (1, 3, "side", "side")),
        "size": ("int64", (2,)),
    }
    signature = signature_of(kinds, {"side": (8, 16, 32)})
    size = signature.inputs["size"].model_copy(update={"range": bounds})
    return tmp_path / "resize.onnx", signature.model_copy(update={"inputs": {**signature.inputs, "size": size}})


def test_values_that_decide_a_shape_are_those_of_the_range(tmp_path: Path) -> None:
    path, signature = _resizing(tmp_path, (8, 24))
    wanted = asked(convolution(tmp_path), tmp_path / "engine", model=path, signature=signature)
    runtime = load_runtime(NAME)
    if not runtime.probe().not_run:
        pytest.skip("there is a GPU here, and golden inputs are of another model")
    assert runtime.build(wanted, wanted.folder).size_bytes


def test_values_that_decide_a_shape_need_a_range(tmp_path: Path) -> None:
    path, signature = _resizing(tmp_path, None)
    wanted = asked(convolution(tmp_path), tmp_path / "engine", model=path, signature=signature)
    with pytest.raises(StepError, match="depend on the values of input 'size'") as caught:
        load_runtime(NAME).build(wanted, wanted.folder)
    assert "give inputs.size its `range: [lowest, highest]`" in caught.value.cure


def test_a_graph_that_was_not_lowered_is_not_built_from(tmp_path: Path) -> None:
    onnx.save(linear(), tmp_path / "model.onnx")
    with pytest.raises(StepError, match=r"model.onnx is in opset 20, and TensorRT 8.6 reads opset 17"):
        readable(tmp_path / "model.onnx", dialect_named("tensorrt", "8.6.1"))


def test_a_node_that_the_parser_does_not_take_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Det", ["x"], ["y"], name="determinant")
    model = graph([node], [value("x", [2, 3, 3])], [value("y", [2])])
    given = convolution(tmp_path)
    path = tmp_path / "det.onnx"
    onnx.save(model, path)
    signature = signature_of({"x": ("float32", (2, 3, 3))}, {})
    wanted = asked(given, tmp_path / "engine", model=path, signature=signature)
    with pytest.raises(StepError, match=r"cannot parse det\.onnx: .*Det"):
        load_runtime(NAME).build(wanted, wanted.folder)


def test_an_unknown_option_is_refused(given: Case, tmp_path: Path) -> None:
    wanted = asked(given, tmp_path / "engine", options={"turbo": True})
    with pytest.raises(StepError, match="turbo"):
        load_runtime(NAME).build(wanted, wanted.folder)


def test_a_run_reports_its_engine_as_built(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    project = Project(folder)
    onnx.save(linear(), folder / "model.onnx")
    engines = [{"runtime": "onnxruntime"}, {"runtime": NAME}]
    project.write(net={**QUICK, "model": {"onnx": "model.onnx"}, "engines": engines})
    done = project.run("run", "--json")
    assert done.code == 0, done.stderr
    engine = done.engine("net", f"{NAME}/fp32")
    assert (engine.status, engine.latency, engine.metric) == ("built", (), None)
    assert engine.size_bytes
    assert "/build/" in (engine.artifact or "")
    assert done.runs["net"].promoted is not None
    assert done.runs["net"].promoted.id == "onnxruntime/fp32"


def test_a_build_that_takes_too_long_or_fails_is_that_engines_error(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    project = Project(folder)
    onnx.save(linear(), folder / "model.onnx")
    engines = [
        {"runtime": "onnxruntime"},
        {"name": "hasty", "runtime": NAME, "optional": True, "options": {"timeout": 0.001}},
        {"name": "missing", "runtime": NAME, "optional": True, "options": {"plugins": ["libmine.so"]}},
        {"name": "broken", "runtime": NAME, "optional": True, "options": {"plugins": ["broken.so"]}},
    ]
    (folder / "broken.so").write_text("no library")
    project.write(net={**QUICK, "model": {"onnx": "model.onnx"}, "engines": engines})
    done = project.run("run", "--json")
    assert done.code == 0, done.stderr
    assert "no answer within 0.001 s" in done.engine("net", "hasty/fp32").reason
    assert "the plugin libmine.so is missing" in done.engine("net", "missing/fp32").reason
    assert "broken.so cannot be loaded" in done.engine("net", "broken/fp32").reason
    assert done.engine("net").status == "passed"
    assert done.runs["net"].promoted is not None


def test_an_option_of_another_runtime_is_a_config_error(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    project = Project(folder)
    onnx.save(linear(), folder / "model.onnx")
    project.write(net={"model": {"onnx": "model.onnx"}, "engines": [{"runtime": NAME, "options": {"threads": 2}}]})
    done = project.run("validate")
    assert done.code == 2
    assert "tensorrt-rtx has no option 'threads'" in done.stderr

    engines = [{"runtime": NAME, "options": {"version_compatible": True, "refittable": True}}]
    project.write(net={"model": {"onnx": "model.onnx"}, "engines": engines})
    assert "cannot be version_compatible and refittable" in project.run("validate").stderr

    project.write(
        net={"model": {"onnx": "model.onnx"}, "engines": [{"runtime": NAME, "options": {"strip_plan": True}}]}
    )
    assert "this engine is not refittable" in project.run("validate").stderr
