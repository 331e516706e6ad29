"""Polygraphy's own Comparator, with ONNX Runtime on the source model, judges what parity kept: the verdicts agree."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from tasks.core.config import EngineConfig, GatesConfig, PrecisionConfig
from tasks.core.store import read_report
from tasks.core.tensors import load_batches, save_batches
from tasks.gates import judge_parity
from tasks.homes import ONNX
from tasks.runtimes.isolate import Workers
from tasks.runtimes.judge import Hop, HopsRequest, compare_hops
from tasks.target import Target
from tests.projects import ROOT, Project

FloatArray: TypeAlias = NDArray[np.float32]
_TARGET = Target(
    engine=EngineConfig(runtime="onnxruntime", name="onnxruntime"), precision=PrecisionConfig(kind="fp32", name="fp32")
)
# In a process of its own: Polygraphy would import torch, to be able to save its tensors, and nothing here is torch's.
POLYGRAPHY = """
import json, sys
sys.modules["torch"] = None
from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
from polygraphy.comparator import Comparator, CompareFunc, RunResults
from polygraphy.json import load_json

model, *folders = sys.argv[1:]
verdicts = {}
for folder in folders:
    own = Comparator.run([OnnxrtRunner(SessionFromOnnx(model))], data_loader=load_json(f"{folder}/inputs.json"))
    both = RunResults([*own.items(), *RunResults.load(f"{folder}/outputs.json").items()])
    judged = Comparator.compare_accuracy(both, compare_func=CompareFunc.simple(rtol=1e-3, atol=1e-4), fail_fast=False)
    verdicts[folder] = bool(judged)
print(json.dumps(verdicts))
"""


def artifact(project: Project, step: str, subject: str = "") -> Path:
    reports = (project.store / "tiny" / step).glob("[!.]*/report.json")
    return next(path.parent for path in reports if read_report(path.parent).subject == subject)


def as_it_is(values: FloatArray) -> FloatArray:
    return values


def scaled(values: FloatArray) -> FloatArray:
    return values * np.float32(1.05)


def shifted(values: FloatArray) -> FloatArray:
    return values + np.float32(0.1)


def with_nan(values: FloatArray) -> FloatArray:
    return np.where(values == values.max(), np.float32("nan"), values)


def swapped(values: FloatArray) -> FloatArray:
    return np.ascontiguousarray(values[::-1])


def test_verdicts_agree_on_a_good_engine_and_on_falsified_outputs(once: Project, tmp_path: Path) -> None:
    (engine, _) = once.record("tiny").outcome.engines
    kept = artifact(once, "parity", engine.id)
    falsified = {change.__name__: change for change in (as_it_is, scaled, shifted, with_nan, swapped)}
    ours = {"kept": engine.status == "passed"}
    shutil.copytree(kept, tmp_path / "kept")
    with Workers() as workers:
        for case, change in falsified.items():
            ours[case] = _judge(once, workers, kept, (change, tmp_path / case))
    theirs = _polygraphy(once.folder / "linear.onnx", [tmp_path / case for case in ours])
    assert ours == theirs
    assert ours == {
        "kept": True,
        "as_it_is": True,
        "scaled": False,
        "shifted": False,
        "with_nan": False,
        "swapped": False,
    }


def _judge(
    project: Project, workers: Workers, kept: Path, made: tuple[Callable[[FloatArray], FloatArray], Path]
) -> bool:
    """Our own verdict on changed outputs, given by what the step itself calls; it also writes Polygraphy's files."""
    change, folder = made
    folder.mkdir()
    save_batches(
        folder / "outputs.safetensors",
        [
            {name: change(values.astype(np.float32)) for name, values in batch.items()}
            for batch in load_batches(kept / "outputs.safetensors")
        ],
    )
    source, data = artifact(project, "export"), artifact(project, "data")
    hop = Hop(actual=folder / "outputs.safetensors", expected=source / "golden_outputs.safetensors")
    request = HopsRequest(
        hops={"vs_source": hop},
        feeds=data / "golden.safetensors",
        outputs=folder / "outputs.safetensors",
        runner=folder.name,
        folder=folder,
    )
    error = workers.call(ONNX, compare_hops, request).hops["vs_source"]
    return judge_parity(_TARGET, GatesConfig(), error, metric=False).status == "passed"


def _polygraphy(model: Path, folders: list[Path]) -> dict[str, bool]:
    command = [sys.executable, "-c", POLYGRAPHY, str(model), *map(str, folders)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    verdicts = json.loads(ended.stdout.splitlines()[-1])
    return {Path(folder).name: verdict for folder, verdict in verdicts.items()}
