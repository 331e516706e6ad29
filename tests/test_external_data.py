"""Weights in files beside an ONNX model: wherever they lie in its folder they come along once, and damage is told."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tasks.core.errors import UserCodeError
from tasks.runtimes.base import load_model
from tasks.runtimes.external_data import byte_length, external_names, external_tensors, write_out
from tasks.sources.external_files import flat_names
from tasks.sources.onnx_import import InspectRequest, inspect_onnx
from tests.projects import QUICK, Project, graph, value

pytestmark = pytest.mark.slow

WEIGHTS = np.linspace(-1, 1, 16, dtype=np.float32).reshape(4, 4)
X, Y = value("x", [2, 4]), value("y", [2, 4])
# The program of a traced run: it counts the digests that a process computes, by what is hashed.
_COUNTED = """
import hashlib, json, os, sys
digest, hashed = hashlib.file_digest, {}

def counting(stream, name):
    status = os.fstat(stream.fileno())
    if status.st_size >= 1000:
        hashed.setdefault(f"{status.st_dev}:{status.st_ino}", []).append(stream.name)
    return digest(stream, name)

hashlib.file_digest = counting
from flows import cli
code = cli.run(sys.argv[2:])
open(sys.argv[1], "w").write(json.dumps(hashed))
sys.exit(code)
"""


def outside(name: str, array: "np.ndarray[Any, Any]", location: str, offset: int = 0, length: int = -1) -> TensorProto:
    """Make a tensor whose bytes lie elsewhere."""
    tensor = numpy_helper.from_array(array, name)
    size = len(tensor.raw_data) if length < 0 else length
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, "offset": offset, "length": size}.items():
        tensor.external_data.add(key=key, value=str(text))
    return tensor


def product(*tensors: TensorProto) -> onnx.ModelProto:
    """Multiply by one weight after the other."""
    names = ["x", *(f"h{index}" for index in range(len(tensors) - 1)), "y"]
    nodes = [
        helper.make_node("MatMul", [names[index], tensor.name], [names[index + 1]])
        for index, tensor in enumerate(tensors)
    ]
    model = graph(nodes, [X], [Y])
    model.graph.initializer.extend(tensors)
    return model


def branches() -> onnx.ModelProto:
    """Choose by the input between two bodies, each with a weight of its own beside the model."""

    def body(name: str) -> onnx.GraphProto:
        node = helper.make_node("MatMul", ["x", f"w_{name}"], [f"y_{name}"])
        weight = outside(f"w_{name}", WEIGHTS, f"bodies/{name}.bin")
        return helper.make_graph([node], name, [], [value(f"y_{name}", [2, 4])], [weight])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["positive"]),
        helper.make_node("If", ["positive"], ["y"], then_branch=body("then"), else_branch=body("else")),
    ]
    return graph(nodes, [X], [Y], zero=np.array(0, np.float32))


def constant() -> onnx.ModelProto:
    """Take the weight from a Constant node."""
    nodes = [
        helper.make_node("Constant", [], ["w"], value=outside("w", WEIGHTS, "constants/w.bin")),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    return graph(nodes, [X], [Y])


def sparse() -> onnx.ModelProto:
    """Take the weight from a sparse initializer."""
    model = graph([helper.make_node("MatMul", ["x", "w"], ["y"])], [X], [Y])
    places = numpy_helper.from_array(np.arange(16, dtype=np.int64), "places")
    values = outside("w", WEIGHTS.ravel(), "sparse.bin")
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=values, indices=places, dims=[4, 4]))
    return model


def save(model: onnx.ModelProto, folder: Path) -> None:
    """Write a model and the whole matrix into each file that it names."""
    for name in external_names(model):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(WEIGHTS.tobytes())
    (folder / "net.onnx").write_bytes(model.SerializeToString())


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "several": lambda: product(outside("a", WEIGHTS, "weights/part-0.bin"), outside("b", WEIGHTS, "part-0.bin")),
    "taken": lambda: product(outside("a", WEIGHTS, "model.onnx"), outside("b", WEIGHTS, "deep/er/report.json")),
    "shared": lambda: product(outside("a", WEIGHTS, "w.bin"), outside("b", WEIGHTS, "w.bin")),
    "branches": branches,
    "constant": constant,
    "sparse": sparse,
}


def test_weights_anywhere_in_the_folder_come_along_in_one_flat_one(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for name, make in MODELS.items():
        (tmp_path / name).mkdir()
        save(make(), tmp_path / name)
    project.write(**{name: {"model": {"onnx": f"{name}/net.onnx"}, **QUICK} for name in MODELS})
    finished = project.run("run", "--json")
    assert {name: run.status for name, run in finished.runs.items()} == dict.fromkeys(MODELS, "passed"), finished.stderr
    for name in MODELS:
        exported = project.artifact(name, "export")
        model = load_model(exported / "model.onnx", external_data=False)
        assert all((exported / file).is_file() and "/" not in file for file in external_names(model))
        beside = {path.name for path in exported.glob("[!.]*")} - {"report.json", "request.json", "model.onnx"}
        assert beside == {"golden_outputs.safetensors", *external_names(model)}
    assert [path for path in project.store.rglob("*") if path.is_symlink()] == []
    assert len(external_names(load_model(project.artifact("several", "fold") / "model.onnx", external_data=False))) == 2


def _save_parts(folder: Path) -> None:
    """A model of two files, each so large that it is counted."""
    wide = np.eye(64, dtype=np.float32)
    names = ["x", "h", "y"]
    nodes = [helper.make_node("MatMul", [names[at], f"w{at}"], [names[at + 1]]) for at in range(2)]
    model = graph(nodes, [value("x", [2, 64])], [value("y", [2, 64])])
    (folder / "parts").mkdir(parents=True)
    for at in range(2):
        model.graph.initializer.append(outside(f"w{at}", wide, f"parts/{at}.bin"))
        (folder / f"parts/{at}.bin").write_bytes((wide * (at + 1)).tobytes())
        os.utime(folder / f"parts/{at}.bin", (1, 1))
    (folder / "net.onnx").write_bytes(model.SerializeToString())


def test_nothing_is_hashed_twice_and_weights_are_linked(tmp_path: Path) -> None:
    _save_parts(tmp_path)
    time.sleep(2.1)  # a file that changed just now is not trusted to stay, and hashed again
    project = Project(tmp_path)
    precisions = {**QUICK, "precisions": ["fp32"], "engines": [{"runtime": "onnxruntime"}, {"runtime": "reference"}]}
    project.write(net={"model": {"onnx": "net.onnx"}, **precisions})
    command = [sys.executable, "-c", _COUNTED, str(tmp_path / "hashed.json"), "run", "--json"]
    root = Path(__file__).parents[1]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    hashed = json.loads((tmp_path / "hashed.json").read_text())
    assert [names for names in hashed.values() if len(names) > 1] == []
    parts = [name for names in hashed.values() for name in names if name.endswith(".bin")]
    assert sorted(parts) == [str(tmp_path / f"parts/{at}.bin") for at in range(2)]  # the user's; no copy, no link
    copies = list(project.store.rglob("weights.*.bin"))
    assert len(copies) == 2 * len(("export", "fold", "quantize", "build", "build"))
    assert len({path.stat().st_ino for path in copies}) == 2
    assert not {path.stat().st_ino for path in copies} & {(tmp_path / f"parts/{at}.bin").stat().st_ino for at in (0, 1)}


def test_an_artifact_with_linked_weights_can_be_made_again(tmp_path: Path) -> None:
    _save_parts(tmp_path)
    project = Project(tmp_path)
    project.write(net={"model": {"onnx": "net.onnx"}, **QUICK})
    assert project.run("run").code == 0
    for step in ("export", "fold", "quantize", "build"):
        folder = project.artifact("net", step)
        again = project.run("repro", str(folder.relative_to(project.store)))
        assert again.code == 0, again.stdout + again.stderr
        assert again.stdout.count("identical") == len(list(folder.glob("[!.]*"))) - 2  # request.json, report.json


def _truncate(folder: Path) -> None:
    (folder / "w.bin").write_bytes(b"123")


def _make_folder(folder: Path) -> None:
    (folder / "w.bin").unlink()
    (folder / "w.bin").mkdir()


def _link_outside(folder: Path) -> None:
    (folder / "w.bin").rename(folder.parent / "elsewhere.bin")
    (folder / "w.bin").symlink_to(folder.parent / "elsewhere.bin")


DAMAGE: dict[str, tuple[onnx.ModelProto, Callable[[Path], object], str]] = {
    "truncated": (product(outside("a", WEIGHTS, "w.bin")), _truncate, "bytes 0 to 64 of 'w.bin', which has 3"),
    "missing": (
        product(outside("a", WEIGHTS, "w.bin")),
        lambda folder: (folder / "w.bin").unlink(),
        "which is not beside it",
    ),
    "folder": (product(outside("a", WEIGHTS, "w.bin")), _make_folder, "which is a folder"),
    "link": (product(outside("a", WEIGHTS, "w.bin")), _link_outside, "is a link to"),
    "above": (product(outside("a", WEIGHTS, "sub/../../w.bin")), lambda _: None, "outside the model's folder"),
    "absolute": (product(outside("a", WEIGHTS, "/etc/hostname")), lambda _: None, "outside the model's folder"),
    "nameless": (product(outside("a", WEIGHTS, "")), lambda _: None, "outside the model's folder"),
    "beyond": (product(outside("a", WEIGHTS, "w.bin", offset=8)), lambda _: None, "bytes 8 to 72 of 'w.bin'"),
    "negative": (product(outside("a", WEIGHTS, "w.bin", offset=-8)), lambda _: None, "bytes -8 to 56"),
    "short": (product(outside("a", WEIGHTS, "w.bin", length=60)), lambda _: None, "needs 64 bytes and has 60"),
    "overlapping": (
        product(outside("a", WEIGHTS, "w.bin"), outside("b", WEIGHTS, "w.bin", offset=16)),
        lambda folder: (folder / "w.bin").write_bytes(bytes(200)),
        "tensors 'a' and 'b' overlap in 'w.bin'",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_wrong_beside_the_model_is_told_at_the_first_look(tmp_path: Path, name: str) -> None:
    model, damage, words = DAMAGE[name]
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "w.bin").write_bytes(WEIGHTS.tobytes())
    (folder / "net.onnx").write_bytes(model.SerializeToString())
    damage(folder)
    with pytest.raises(UserCodeError) as refused:
        inspect_onnx(InspectRequest(model=folder / "net.onnx"))
    assert words in refused.value.message
    assert refused.value.cure


def test_an_offset_that_is_no_number_is_told(tmp_path: Path) -> None:
    model = product(outside("a", WEIGHTS, "w.bin"))
    next(entry for entry in model.graph.initializer[0].external_data if entry.key == "offset").value = "first"
    (tmp_path / "w.bin").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserCodeError, match="external data of 'a'"):
        inspect_onnx(InspectRequest(model=tmp_path / "net.onnx"))


def test_links_of_any_kind_inside_the_folder_are_followed(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "1").write_bytes(WEIGHTS.tobytes())
    (tmp_path / "w.bin").symlink_to("blobs/1")
    (tmp_path / "again").hardlink_to(tmp_path / "blobs" / "1")
    model = product(outside("a", WEIGHTS, "w.bin"), outside("b", WEIGHTS, "again"))
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert inspect_onnx(InspectRequest(model=tmp_path / "net.onnx")).external_files == ("again", "w.bin")


def test_files_get_names_of_their_own_that_no_artifact_has() -> None:
    names = ["a.bin", "s/a.bin", "s/t/a.bin", "model.onnx", "x/report.json", "golden.safetensors", ".hidden", "scratch"]
    homes = flat_names(names)
    assert list(homes) == names
    assert homes["a.bin"] == "a.bin"
    assert len(set(homes.values())) == len(names)
    taken = {"model.onnx", "report.json", "request.json", "golden.safetensors", "scratch"}
    assert all("/" not in home and not home.startswith(".") and home not in taken for home in homes.values())


def test_every_tensor_that_a_model_can_hold_is_found() -> None:
    model = branches()
    model.graph.node.extend(constant().graph.node)
    model.graph.sparse_initializer.extend(sparse().graph.sparse_initializer)
    function = helper.make_function("own", "f", ["x"], ["y"], constant().graph.node, [helper.make_opsetid("", 20)])
    model.functions.append(function)
    assert sorted(tensor.name for tensor in external_tensors(model)) == ["w", "w", "w", "w_else", "w_then"]


def test_moved_weights_are_the_same(tmp_path: Path) -> None:
    tensors = [numpy_helper.from_array(WEIGHTS * factor, f"w{factor}") for factor in (1, 2)]
    write_out(tensors, tmp_path / "w.bin")
    (tmp_path / "net.onnx").write_bytes(product(*tensors).SerializeToString())
    read = load_model(tmp_path / "net.onnx", external_data=True).graph.initializer
    assert all(np.array_equal(numpy_helper.to_array(tensor), WEIGHTS * at) for at, tensor in enumerate(read, 1))


@pytest.mark.parametrize(
    ("kind", "size"), [("FLOAT", 20), ("INT4", 3), ("UINT4", 3), ("INT2", 2), ("BFLOAT16", 10), ("FLOAT4E2M1", 3)]
)
def test_packed_values_take_less(kind: str, size: int) -> None:
    assert byte_length(TensorProto(dims=[5], data_type=TensorProto.DataType.Value(kind))) == size
