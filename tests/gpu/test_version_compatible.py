"""A version-compatible engine is built by TensorRT 8.6 and opened by the runtimes of 10, through the same code.

Needs a GPU, TensorRT 8.6 with its libnvinfer_lean on the loader's path, and another Python with TensorRT 10's runtimes,
numpy, safetensors, pydantic, nvidia-ml-py, pycuda and cuda-bindings:

    TRTFLOW_TEST_LEAN10=/path/to/python pytest tests/gpu/test_version_compatible.py
    TRTFLOW_TEST_LEAN11=/path/to/python adds that 11 refuses a plan of 8.6
"""

import importlib.util
import json
import os
import subprocess
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import helper

from tasks.core.environment import gpu
from tests.projects import QUICK, Finished, Project, graph, value

LEAN10, LEAN11 = (os.environ.get(f"TRTFLOW_TEST_LEAN{major}", "") for major in (10, 11))
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(gpu() is None, reason="there is no NVIDIA GPU here"),
    pytest.mark.skipif(importlib.util.find_spec("tensorrt") is None, reason="tensorrt is not installed"),
    pytest.mark.skipif(importlib.util.find_spec("pycuda") is None, reason="pycuda is not installed"),
    pytest.mark.skipif(not LEAN10, reason="TRTFLOW_TEST_LEAN10 names no Python with TensorRT 10's lean runtime"),
]
COMPATIBLE = {"version_compatible": True}


def residual() -> onnx.ModelProto:
    """A convolution, two residual blocks and a head: what a ResNet is made of."""
    rng = np.random.default_rng(3)
    weights: dict[str, Any] = {"stem": 0.2 * rng.standard_normal((16, 3, 3, 3)), "head": rng.standard_normal((16, 10))}
    nodes = [helper.make_node("Conv", ["image", "stem"], ["x0"], name="stem", pads=[1, 1, 1, 1])]
    for block in range(2):
        names = [f"w{block}a", f"w{block}b"]
        weights |= {name: 0.1 * rng.standard_normal((16, 16, 3, 3)) for name in names}
        x, y = f"x{block}", f"x{block + 1}"
        nodes += [
            helper.make_node("Conv", [x, names[0]], [f"{x}a"], name=f"conv{block}a", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", [f"{x}a"], [f"{x}r"], name=f"relu{block}a"),
            helper.make_node("Conv", [f"{x}r", names[1]], [f"{x}b"], name=f"conv{block}b", pads=[1, 1, 1, 1]),
            helper.make_node("Add", [x, f"{x}b"], [f"{x}s"], name=f"add{block}"),
            helper.make_node("Relu", [f"{x}s"], [y], name=f"relu{block}b"),
        ]
    nodes += [
        helper.make_node("GlobalAveragePool", ["x2"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flat"),
        helper.make_node("MatMul", ["flat", "head"], ["logits"], name="head"),
    ]
    arrays = {name: array.astype(np.float32) for name, array in weights.items()}
    return graph(nodes, [value("image", ["batch", 3, 16, 16])], [value("logits", ["batch", 10])], **arrays)


def has(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, Finished]:
    """One run: built by our own TensorRT, opened by it, by 10's runtimes and, where it is there, by 11's."""
    project = Project(tmp_path_factory.mktemp("compatible"))
    onnx.save(residual(), project.folder / "model.onnx")
    interpreters: dict[str, Any] = {"lean10": {"python": LEAN10, "module": "tensorrt_lean"}}
    if has(LEAN10, "tensorrt_dispatch"):
        interpreters["dispatch10"] = {"python": LEAN10, "module": "tensorrt_dispatch"}
    if LEAN11:
        interpreters["lean11"] = {"python": LEAN11, "module": "tensorrt_lean"}
    # Optional: what 11 refuses is looked at, and does not decide.
    engine = {"runtime": "tensorrt", "options": COMPATIBLE, "run_on": list(interpreters), "optional": True}
    net = {
        **QUICK,
        "model": {"onnx": "model.onnx"},
        "dims": {"batch": {"min": 1, "opt": 4, "max": 8}},
        "engines": [{"runtime": "onnxruntime"}, engine],
    }
    document = {"version": 1, "interpreters": interpreters, "pipelines": {"net": net}}
    (project.folder / "pipelines.yaml").write_text(yaml.safe_dump(document, sort_keys=False))
    return project, project.finish(project.start("run", "--json"), timeout=280)


def test_it_is_built_once_and_passes_by_its_builder(ran: tuple[Project, Finished]) -> None:
    project, done = ran
    assert done.code == 0, done.stdout + done.stderr
    engine = done.engine("net", "tensorrt/fp32")
    assert engine.status == "passed", engine.reason
    reports = [json.loads(path.read_text()) for path in (project.store / "net" / "build").glob("*/report.json")]
    assert sorted(report["recipe"]["params"]["runtime"] for report in reports) == ["onnxruntime", "tensorrt"]
    card = json.loads((project.store / (engine.artifact or "") / "card.json").read_text())
    assert card["settings"]["version_compatible"] is True


@pytest.mark.parametrize("name", ["lean10", "dispatch10"])
def test_the_runtimes_of_10_open_check_and_time_it(ran: tuple[Project, Finished], name: str) -> None:
    _, done = ran
    found = [engine for engine in done.runs["net"].engines if engine.id == f"tensorrt@{name}/fp32"]
    if not found:
        pytest.skip(f"there is no {name} here")
    (engine,) = found
    assert engine.status == "passed", engine.reason
    assert engine.artifact == done.engine("net", "tensorrt/fp32").artifact
    assert engine.parity is not None
    assert engine.parity.vs_source.rel_l2 < 1e-3
    assert engine.latency
    promoted = done.runs["net"].promoted
    assert promoted is not None
    assert "@" not in promoted.id


@pytest.mark.skipif(not LEAN11, reason="TRTFLOW_TEST_LEAN11 names no Python with TensorRT 11's lean runtime")
def test_11_is_told_apart_before_it_is_asked(ran: tuple[Project, Finished]) -> None:
    engine = ran[1].engine("net", "tensorrt@lean11/fp32")
    assert engine.status == "error"
    assert "was made by tensorrt 8.6" in engine.reason


def test_a_run_in_which_nothing_changed_finds_all_of_it(ran: tuple[Project, Finished]) -> None:
    again = ran[0].execute("run", "--json")
    made = {step.step for step in again.runs["net"].steps if not step.cached and step.status == "done"}
    assert made == {"promote"}
