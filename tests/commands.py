"""Pipelines that the tests of the commands share, and the command called in the process of the test."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import onnx
import safetensors.numpy
from onnx import helper

from tests.projects import QUICK, Project, graph, linear, value

DIMS = {"batch": {"min": 1, "opt": 2, "max": 4}}
SOURCE = {"model": {"onnx": "linear.onnx"}, "dims": DIMS, **QUICK}
TINY = {**SOURCE, "engines": [{"runtime": "onnxruntime"}, {"runtime": "reference"}]}
# A gate that no engine passes: three axes are no logits, so that no class is the first.
BAD = {"model": {"onnx": "cube.onnx"}, **QUICK, "gates": {"parity": {"fp32": {"top1_agreement": 1.0}}}}
TORCH = {
    "model": {"torch": "net:build", "checkpoint": "weights.safetensors"},
    "inputs": {"x": {"dtype": "float32", "shape": ["batch", 4]}},
    "dims": DIMS,
    "outputs": ["y"],
    "data": {"evaluation": {"source": "samples:evaluation", "metric": {"function": "samples:top1"}}},
    **QUICK,
}
_NET = """
import torch

def build():
    return torch.nn.Linear(4, 3)
"""
_SAMPLES = """
import numpy as np

def evaluation():
    x = np.random.default_rng(5).standard_normal((8, 4), dtype=np.float32)
    for begin in (0, 4):
        yield {"x": x[begin : begin + 4]}, {"label": np.arange(begin, begin + 4) % 3}

def top1(outputs, targets, reference):
    return float(np.mean(outputs["y"].argmax(-1) == targets["label"]))
"""


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, Any]:
        """The one object that stdout holds, on its own."""
        found = json.loads(self.out)
        assert isinstance(found, dict)
        return found


class Call(Protocol):
    """Calls the command in a project."""

    def __call__(self, project: Project, *arguments: str) -> Said:
        """Run it to its end."""


def fresh(folder: Path) -> Project:
    """A project that was never run."""
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(linear("batch"), folder / "linear.onnx")
    shape = [2, 2, 2]
    cube = graph([helper.make_node("Relu", ["x"], ["y"])], [value("x", shape)], [value("y", shape)])
    onnx.save(cube, folder / "cube.onnx")
    project = Project(folder)
    project.write(tiny=TINY)
    return project


def fresh_torch(folder: Path) -> Project:
    """A project whose model is a torch module with a checkpoint, scored by a metric of its own; never run."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "net.py").write_text(_NET)
    (folder / "samples.py").write_text(_SAMPLES)
    write_checkpoint(folder, 1.0)
    project = Project(folder)
    project.write(net=TORCH)
    return project


def write_checkpoint(folder: Path, scale: float) -> None:
    """Write weights.safetensors."""
    weights = scale * np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    tensors = {"weight": weights, "bias": np.zeros(3, np.float32)}
    safetensors.numpy.save_file(tensors, folder / "weights.safetensors")


def tree(folder: Path) -> dict[str, int]:
    """Every file and folder below a folder, with the size of files."""
    paths = (Path(top) / name for top, folders, files in os.walk(folder) for name in (*folders, *files))
    return {str(path.relative_to(folder)): path.stat().st_size if path.is_file() else -1 for path in paths}
