"""Six architectures as projects that the command can run: nets.py, a net.py of one network, and a pipelines.yaml."""

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

NETS = Path(__file__).with_name("nets.py")
DIMS = {"batch": {"min": 1, "opt": 4, "max": 8}}
# Of decisions, 3 of 64 samples; of pictures, relative error: what four bits a weight cost small networks.
METRIC_DROP = 0.05
_NET = '''"""The network {name}, its data and its metric."""

import nets


def build():
    return nets.build_{name}()


def calibration():
    for batch in nets.samples({shape}, nets.CALIBRATION):
        yield {{"{input}": batch}}


def evaluation():
    return nets.evaluation("{input}", {shape})


def agreement(outputs, targets, reference):
    return nets.{metric}(outputs, targets, reference)
'''


@dataclass(frozen=True)
class Architecture:
    """One network: what it takes, of which shape without the batch, what it gives, and what it needs installed."""

    name: str
    input: str
    shape: tuple[int, ...]
    output: str
    metric: Literal["same_class", "same_picture"]
    needs: str | None = None

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        """Its inputs, as a pipelines.yaml has them."""
        return {self.input: {"dtype": "float32", "shape": ["batch", *self.shape]}}

    @property
    def missing(self) -> str | None:
        """The package that it needs and that is not installed."""
        return self.needs if self.needs and importlib.util.find_spec(self.needs) is None else None


ARCHITECTURES = {
    found.name: found
    for found in (
        Architecture("cnn", "image", (1, 8, 8), "logits", "same_class"),
        Architecture("residual", "image", (3, 32, 32), "logits", "same_class"),
        Architecture("unet", "image", (1, 32, 32), "mask", "same_picture"),
        Architecture("lstm", "sequence", (12, 16), "logits", "same_class"),
        Architecture("vit", "image", (3, 32, 32), "logits", "same_class", needs="transformers"),
        Architecture("superres", "image", (1, 16, 16), "enlarged", "same_picture"),
    )
}


def write_project(folder: Path, architecture: Architecture, precisions: Sequence[object]) -> None:
    """Make a project whose only pipeline has the name of the architecture."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(NETS, folder / "nets.py")
    net = _NET.format(
        name=architecture.name, shape=architecture.shape, input=architecture.input, metric=architecture.metric
    )
    (folder / "net.py").write_text(net, encoding="utf-8")
    document = {"version": 1, "pipelines": {architecture.name: pipeline(architecture, precisions)}}
    (folder / "pipelines.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def pipeline(architecture: Architecture, precisions: Sequence[object]) -> dict[str, Any]:
    """One pipeline: next to no timing, which is not what these networks are for."""
    evaluation = {"source": "net:evaluation", "synthetic": True, "metric": {"function": "net:agreement"}}
    return {
        "model": {"torch": "net:build"},
        "inputs": architecture.inputs,
        "dims": DIMS,
        "outputs": [architecture.output],
        "data": {"calibration": {"source": "net:calibration"}, "evaluation": evaluation},
        "precisions": list(precisions),
        "engines": [{"runtime": "onnxruntime"}],
        "gates": {"metric_drop": METRIC_DROP},
        "benchmark": {"seconds": 0.02, "baselines": False},
    }
