"""ONNX files as the source: what is wrong with one is told and harms no other; what is right needs no configuration."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from flows import cli
from tests.projects import FLOAT, INT64, QUICK, Finished, Project, graph, linear, value

pytestmark = pytest.mark.slow

# Of each bad file: the step that finds it, a part of the message and of the cure.
BAD = {
    "truncated": ("inspect", "truncated.onnx is not a whole ONNX model", "export or copy it again"),
    "text": ("inspect", "text.onnx is not a whole ONNX model: it is a text file", "export or copy it again"),
    "pointer": ("inspect", "pointer.onnx is a pointer of Git LFS", "git lfs pull"),
    "checkpoint": ("inspect", "checkpoint.onnx is a zip archive, as torch.save writes", "export the model as ONNX"),
    "empty": ("inspect", "empty.onnx holds no graph (0 bytes)", "export or copy it again"),
    "cycle": ("inspect", "a cycle, or unsorted nodes", "export it again"),
    "unknown": ("inspect", "unknown operator: No Op registered for Frobnicate", "export it again"),
    "missing": (
        "inspect",
        "missing.onnx keeps weights in 'missing.data', which is not beside it",
        "copy that file too",
    ),
    "outside": ("inspect", "'../outside.data' lies outside the model's folder", "keep it beside the model"),
    "absolute": ("inspect", "'/etc/passwd' lies outside the model's folder", "keep it beside the model"),
    "bfloat": ("inspect", "input 'x' holds bfloat16", "convert it inside the model"),
    "strings": ("inspect", "input 'x' holds text (string)", "convert it inside the model"),
    "sequence": ("inspect", "'x' is sequence_type, expected a tensor", "takes and gives tensors"),
    "constant": ("inspect", "takes no input", "export it with inputs"),
    "nothing": ("inspect", "it has no elements", "real sizes"),
    "short": (
        "inspect",
        "tensor 'w' lies at bytes 0 to 48 of 'short.data', which has 3",
        "is truncated",
    ),
    "shapes": ("export", "Incompatible dimensions for matrix multiplication", "export it again"),
}
# Wrong in the YAML, which only the graph could tell: path, message and cure.
REFUSED = {
    "dynamic": ("", "the graph has the dynamic dims ['batch']", "`dims: {batch: {min: 1, opt: 8, max: 32}}`"),
    "integers": ("", "integer input 'x' would have to be generated", "give its `range: [lowest, highest]`"),
    "declared": (".inputs.x", "declared as float32 [3, 4]; in the graph it is float32 [2, 4]", "correct it"),
    "point": (".benchmark.at[0].batch", "'batch' is no dim of this pipeline", "all its sizes are fixed"),
}
SECTIONS: dict[str, dict[str, object]] = {
    "declared": {"inputs": {"x": {"dtype": "float32", "shape": [3, 4]}}},
    "point": {"benchmark": {"at": [{"batch": 1}]}},
}


def _identity(kind: int) -> ModelProto:
    return graph([helper.make_node("Identity", ["x"], ["y"])], [value("x", [2], kind)], [value("y", [2], kind)])


def _with_data(folder: Path, name: str) -> ModelProto:
    onnx.save(linear(), folder / f"{name}.onnx", save_as_external_data=True, location=f"{name}.data", size_threshold=0)
    return onnx.load(folder / f"{name}.onnx", load_external_data=False)


def _elsewhere(folder: Path, name: str, location: str) -> None:
    model = _with_data(folder, name)
    (folder / f"{name}.data").rename(folder / f"../{name}.data")
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == "location").value = location
    (folder / f"{name}.onnx").write_bytes(model.SerializeToString())


def _write_files(folder: Path) -> None:
    whole = linear().SerializeToString()
    (folder / "good.onnx").write_bytes(whole)
    (folder / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (folder / "text.onnx").write_text("this is no model\n" * 20)
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "pointer.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    (folder / "checkpoint.onnx").write_bytes(b"PK\x03\x04 and weights")
    _with_data(folder, "missing")
    (folder / "missing.data").unlink()
    _with_data(folder, "short")
    (folder / "short.data").write_bytes(b"123")
    _elsewhere(folder, "outside", "../outside.data")
    _elsewhere(folder, "absolute", "/etc/passwd")
    x, y = value("x", [2]), value("y", [2])
    loop = [helper.make_node("Add", ["x", "y"], ["z"]), helper.make_node("Relu", ["z"], ["y"])]
    misfit = linear()
    misfit.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((5, 3), np.float32), "w"))
    sequences = [helper.make_tensor_sequence_value_info(name, FLOAT, [2]) for name in "xy"]
    models = {
        "cycle": graph(loop, [x], [y]),
        "unknown": graph([helper.make_node("Frobnicate", ["x"], ["y"])], [x], [y]),
        "bfloat": _identity(TensorProto.BFLOAT16),
        "strings": _identity(TensorProto.STRING),
        "integers": _identity(INT64),
        "sequence": graph([helper.make_node("Identity", ["x"], ["y"])], sequences[:1], sequences[1:]),
        "constant": graph([helper.make_node("Constant", [], ["y"], value_floats=[1.0, 2.0])], [], [y]),
        "nothing": graph([helper.make_node("Relu", ["x"], ["y"])], [value("x", [0])], [value("y", [0])]),
        "shapes": misfit,
        "dynamic": linear("batch"),
        "declared": linear(),
        "point": linear(),
    }
    for name, model in models.items():
        onnx.save(model, folder / f"{name}.onnx")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("onnx") / "project"
    folder.mkdir()
    _write_files(folder)
    return Project(folder)


@pytest.fixture(scope="module")
def ran(project: Project) -> Finished:
    names = [*BAD, *REFUSED, "good"]
    project.write(**{name: {"model": {"onnx": f"{name}.onnx"}, **QUICK, **SECTIONS.get(name, {})} for name in names})
    return project.run("run", "--json")


@pytest.mark.parametrize("name", BAD)
def test_file_that_cannot_be_used_fails_its_pipeline(project: Project, ran: Finished, name: str) -> None:
    step, message, cure = BAD[name]
    engine = ran.engine(name)
    assert (ran.runs[name].status, engine.status, ran.status(name, step)) == ("failed", "error", "failed")
    assert message in engine.reason
    assert cure in engine.reason
    assert message in ran.stderr
    assert {found.status for found in ran.runs[name].steps} == {"done", "failed", "not_reached"} - (
        {"done"} if step == "inspect" else set()
    )
    assert project.record(name).failure == engine.reason
    assert not (project.store / name / "promotions").exists()


def test_bad_files_do_not_harm_a_good_one(ran: Finished) -> None:
    assert ran.code == 1
    assert ran.engine("good").status == "passed"
    assert ran.runs["good"].promoted


@pytest.mark.parametrize("name", REFUSED)
def test_graph_that_contradicts_the_yaml_is_told_with_its_line(
    project: Project, ran: Finished, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path, message, cure = REFUSED[name]
    assert ran.runs[name].status == "failed"
    assert message in ran.engine(name).reason
    assert cure in ran.engine(name).reason
    assert cli.run(["run", "--json", "-f", str(project.folder / "pipelines.yaml"), name]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert message in error["message"]
    assert cure in error["cure"]
    assert error["path"] == f"pipelines.{name}{path}"
    line = (project.folder / "pipelines.yaml").read_text().splitlines()[error["line"] - 1]
    assert (path.rpartition(".")[2] or name) in line


def test_weights_that_vanish_after_the_first_look_are_told(project: Project) -> None:
    _with_data(project.folder, "vanishing")
    project.write(vanishing={"model": {"onnx": "vanishing.onnx"}, **QUICK})
    assert project.run("run", "--json").code == 0
    (project.folder / "vanishing.data").unlink()
    ran = project.run("run", "--json")
    assert ran.code == 1
    assert "vanishing.data" in ran.engine("vanishing").reason


def test_model_alone_is_enough(tmp_path: Path) -> None:
    onnx.save(linear(), tmp_path / "model.onnx")
    project = Project(tmp_path)
    project.write(name={"model": {"onnx": "model.onnx"}})
    ran = project.run("run", "--json")
    assert (ran.code, ran.runs["name"].status) == (0, "passed")
    assert [engine.id for engine in ran.runs["name"].engines] == ["onnxruntime/fp32", "onnxruntime/fp16"]
    assert {engine.status for engine in ran.runs["name"].engines} == {"passed"}
    assert ran.runs["name"].promoted


def test_several_inputs_outputs_and_dims(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "token"], ["word"]),
        helper.make_node("Add", ["word", "x"], ["sum"]),
        helper.make_node("ReduceMean", ["sum", "axes"], ["mean"], keepdims=0),
        helper.make_node("Shape", ["token"], ["size"]),
    ]
    model = graph(
        nodes,
        [value("token", ["batch", "length"], INT64), value("x", ["batch", "length", 4])],
        [value("mean", ["batch", 4]), value("size", [2], INT64), value("sum", ["batch", "length", 4])],
        table=np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4),
        axes=np.array([1]),
    )
    onnx.save(model, tmp_path / "model.onnx")
    token = {"dtype": "int64", "shape": ["batch", "length"], "range": [0, 9]}
    dims = {"batch": {"min": 1, "opt": 2, "max": 4}, "length": {"min": 1, "opt": 3, "max": 16}}
    points = [{"batch": 1, "length": 5}, {"batch": 4, "length": 16}]
    project = Project(tmp_path)
    project.write(
        a={
            "model": {"onnx": "model.onnx"},
            "inputs": {"token": token},
            "dims": dims,
            **QUICK,
            "benchmark": {"at": points, "seconds": 0.02, "baselines": False},
        }
    )
    ran = project.run("run", "--json")
    assert ran.code == 0, ran.stderr
    assert [point.at for point in ran.engine("a").latency] == points


def test_a_graph_with_16_bit_weights_is_no_fp32(tmp_path: Path) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    half = graph(
        [node],
        [value("x", [2, 64], TensorProto.FLOAT16)],
        [value("y", [2, 64], TensorProto.FLOAT16)],
        w=np.eye(64, dtype=np.float16),
    )
    project = Project(tmp_path)
    onnx.save_model(half, tmp_path / "half.onnx")
    quick = {"benchmark": QUICK["benchmark"], "model": {"onnx": "half.onnx"}}
    project.write(free=quick, plain={**quick, "precisions": ["fp32"]})
    finished = project.run("run", "--json")
    assert finished.engine("free", "onnxruntime/typed").status == "passed"
    refused = finished.engine("plain")
    assert refused.status == "error"
    assert "has most of its weights in a 16-bit type" in refused.reason
    assert "[typed]" in refused.reason
