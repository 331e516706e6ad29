"""The digits example in a project of its own, for what is measured or shown of it under `trtflow up`."""

import shutil
from pathlib import Path
from typing import Any

import yaml

from tests.projects import ROOT, Project


def digits_alone(folder: Path) -> tuple[Project, dict[str, Any]]:
    """A project without a YAML, and the pipeline to write there: on ONNX Runtime, converted after every retraining."""
    (folder / "models").mkdir(parents=True)
    for name in ("digits.py", "digits.safetensors"):
        shutil.copy(ROOT / "models" / name, folder / "models")
    digits = yaml.safe_load((ROOT / "pipelines.yaml").read_text())["pipelines"]["digits"]
    return Project(folder), {**digits, "engines": [{"runtime": "onnxruntime"}], "on_retrain": True}
