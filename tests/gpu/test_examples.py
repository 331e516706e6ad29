"""The Python example runs what is promoted, knowing nothing of trtflow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from tasks.core.config import RuntimeName
from tasks.core.metrics import compare, worst
from tasks.core.tensors import Tensors
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tests.projects import INT64, ROOT, graph, value
from tests.runtimes.contract import Built, Case, build, case, opened, signature_of

pytestmark = pytest.mark.gpu
EXAMPLE = ROOT / "examples" / "run_engine.py"


@pytest.fixture
def promoted(tmp_path: Path, built: Built) -> Path:
    """A store in which the engine is promoted."""
    return promote(tmp_path, built)


def promote(tmp_path: Path, built: Built) -> Path:
    folder = tmp_path / "artifacts" / "net" / "build" / "0123456789abcdef0123"
    folder.mkdir(parents=True)
    for name in ("model.engine", "card.json"):
        (folder / name).write_bytes(built.engine.with_name(name).read_bytes())
    pipeline = tmp_path / "artifacts" / "net"
    current = {"current": {"artifact": "net/build/0123456789abcdef0123"}, "barred": []}
    (pipeline / "promoted.json").write_text(json.dumps(current))
    return pipeline


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", str(EXAMPLE), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, cwd="/")


def test_it_computes_what_our_session_does(
    name: RuntimeName, promoted: Path, built: Built, given: Case, tmp_path: Path
) -> None:
    feeds = given.batches[0]
    np.savez(tmp_path / "feeds.npz", **feeds)  # type: ignore[arg-type]
    done = run(promoted, tmp_path / "feeds.npz", tmp_path / "outputs.npz")
    assert done.returncode == 0, done.stdout + done.stderr
    with opened(name, built) as session:
        expected = session.infer(feeds)
    found = dict(np.load(tmp_path / "outputs.npz"))
    assert worst(compare(found, expected).values()).max_abs_error <= 1e-5


def test_it_makes_feeds_of_the_usual_size(name: RuntimeName, promoted: Path) -> None:
    assert name
    done = run(promoted)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "logits: float32[4, 10]" in done.stdout


def test_it_refuses_an_engine_that_was_changed(name: RuntimeName, promoted: Path) -> None:
    assert name
    (engine,) = promoted.rglob("model.engine")
    engine.write_bytes(engine.read_bytes()[:-1])
    done = run(promoted)
    assert done.returncode == 1
    assert "is not the engine of its card" in done.stderr


def of_every_type(folder: Path) -> Case:
    """int64, bool, fp16 and a scalar in; those and fp32 out, one of them without axes."""
    nodes = [
        helper.make_node("Add", ["ids", "one"], ["next"], name="next"),
        helper.make_node("Not", ["flags"], ["off"], name="off"),
        helper.make_node("Add", ["half", "half"], ["twice"], name="twice"),
        helper.make_node("Cast", ["half"], ["wide"], name="wide", to=TensorProto.FLOAT),
        helper.make_node("Mul", ["wide", "factor"], ["scaled"], name="scaled"),
        helper.make_node("ReduceSum", ["scaled"], ["total"], name="total", keepdims=0),
    ]
    inputs = [
        value("ids", ["batch"], INT64),
        value("flags", ["batch", 2], TensorProto.BOOL),
        value("half", ["batch", 3], TensorProto.FLOAT16),
        value("factor", []),
    ]
    outputs = [
        value("next", ["batch"], INT64),
        value("off", ["batch", 2], TensorProto.BOOL),
        value("twice", ["batch", 3], TensorProto.FLOAT16),
        value("scaled", ["batch", 3]),
        value("total", []),
    ]
    model = graph(nodes, inputs, outputs, one=np.array([1], np.int64))
    types = {"ids": "int64", "flags": "bool", "half": "float16", "factor": "float32"}
    shapes: dict[str, tuple[int | str, ...]] = {"ids": ("batch",), "flags": ("batch", 2), "half": ("batch", 3)}
    signature = signature_of({name: (types[name], shapes.get(name, ())) for name in types}, {"batch": (1, 4, 8)})
    return case(folder, model, signature, [every_type(4)], "fp16")


def every_type(batch: int) -> Tensors:
    """Small whole numbers, which fp16 holds too."""
    rng = np.random.default_rng(batch)
    return {
        "ids": rng.integers(-9, 9, batch) * 100_003,
        "flags": rng.random((batch, 2)) < 0.5,
        "half": rng.integers(-9, 9, (batch, 3)).astype(np.float16),
        "factor": np.asarray(0.5, np.float32),
    }


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory, name: RuntimeName) -> tuple[Case, Built, Path]:
    folder = tmp_path_factory.mktemp("typed")
    given = of_every_type(folder)
    built = build(name, given, folder / "engine")
    return given, built, promote(folder, built)


def saved(path: Path, feeds: Tensors) -> Path:
    np.savez(path, **feeds)  # type: ignore[arg-type]
    return path


def test_a_card_states_the_dtypes_of_the_engine(typed: tuple[Case, Built, Path]) -> None:
    _, built, _ = typed
    specs = {spec.name: spec for spec in (*built.card.inputs, *built.card.outputs)}
    narrow = "int32" if built.card.runtime_version.startswith("8.") else ""  # 8.6 has no int64
    assert {name: spec.engine_dtype for name, spec in specs.items() if spec.dtype == "int64"} == {
        "ids": narrow,
        "next": narrow,
    }
    assert {spec.engine_dtype for spec in specs.values() if spec.dtype != "int64"} == {""}
    assert (specs["factor"].shape, specs["total"].shape) == ((), ())


@pytest.mark.parametrize("batch", [1, 4, 8])
def test_every_dtype_goes_in_and_comes_out(typed: tuple[Case, Built, Path], batch: int, tmp_path: Path) -> None:
    given, _, store = typed
    feeds = every_type(batch)
    done = run(store, saved(tmp_path / "feeds.npz", feeds), tmp_path / "outputs.npz")
    assert done.returncode == 0, done.stdout + done.stderr
    found = dict(np.load(tmp_path / "outputs.npz"))
    (expected,) = run_unoptimised(given.model, [feeds])
    assert {name: (a.dtype, a.shape) for name, a in found.items()} == {
        name: (a.dtype, a.shape) for name, a in expected.items()
    }
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array)


def test_feeds_that_the_card_does_not_describe_are_refused(typed: tuple[Case, Built, Path], tmp_path: Path) -> None:
    _, built, store = typed
    feeds = every_type(4)
    wrong: dict[str, Tensors] = {
        "ids is int32, the model takes int64": {"ids": feeds["ids"].astype(np.int32)},
        "batch is 9, the engine takes 1 to 8": every_type(9),
        "flags has the shape [4, 3]": {"flags": np.ones((4, 3), np.bool_)},
        "half has the shape [3, 3]": {"half": feeds["half"][:3]},
    }
    if built.card.runtime_version.startswith("8."):
        wrong["ids holds values beyond int32"] = {"ids": np.full(4, 2**40)}
    for says, changed in wrong.items():
        done = run(store, saved(tmp_path / "feeds.npz", {**feeds, **changed}))
        assert (done.returncode, says in done.stderr) == (1, True), done.stderr
