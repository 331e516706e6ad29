"""Small projects for the tests: ONNX files, a pipelines.yaml, and the command run there as a user runs it."""

import io
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from onnx import TensorProto, helper, numpy_helper

from flows import cli
from tasks.core.outcome import EngineOutcome, RunOutcome, RunRecord, RunsOutcome
from tests.kept import ZYGOTES
from tests.processes import marked

ROOT = Path(__file__).resolve().parents[1]
# No ModelOpt, no torch, next to no timing: what is left is what the tests are about.
QUICK: dict[str, Any] = {"precisions": ["fp32"], "benchmark": {"seconds": 0.02, "baselines": False}}
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
_MARK = "TRTFLOW_TEST"
# The lock of the host lies here where /run/lock is not to be written: it is meant to stay.
_HOST_LOCK = {"trtflow.lock", "trtflow.turnstile"}
_ELSEWHERE = ("PREFECT_API_URL", "ORT_DISABLE_TELEMETRY", "CI")


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str

    @property
    def runs(self) -> dict[str, RunOutcome]:
        """What `run --json` told, by pipeline: one object on one line, and nothing else."""
        assert self.stdout.count("\n") == 1, self.stdout + self.stderr
        return {run.pipeline: run for run in RunsOutcome.model_validate_json(self.stdout).runs}

    def engine(self, pipeline: str, name: str = "onnxruntime/fp32") -> EngineOutcome:
        """The verdict on one result."""
        return next(engine for engine in self.runs[pipeline].engines if engine.id == name)

    def status(self, pipeline: str, step: str) -> str:
        """The state of the first step of that name."""
        return next(found.status for found in self.runs[pipeline].steps if found.step == step)


@dataclass
class Project:
    """A folder with a pipelines.yaml. After each command it is checked that nothing was left behind."""

    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        self.temporary.mkdir(parents=True, exist_ok=True)

    @property
    def store(self) -> Path:
        """The store that the YAML names by default."""
        return self.folder / "artifacts"

    @property
    def temporary(self) -> Path:
        """What the command is given for a temporary folder."""
        return self.folder / "tmp"

    def write(self, **pipelines: Mapping[str, object]) -> None:
        """Write the pipelines.yaml."""
        text = yaml.safe_dump({"version": 1, "pipelines": dict(pipelines)}, sort_keys=False)
        (self.folder / "pipelines.yaml").write_text(text)

    def start(self, *arguments: str, before: Sequence[str] = ()) -> "subprocess.Popen[str]":
        """Start the command in a process group of its own."""
        return subprocess.Popen(
            [*before, sys.executable, "-m", "flows.cli", *arguments],
            cwd=self.folder,
            env={**_surroundings(), "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), _MARK: self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: "subprocess.Popen[str]", timeout: float = 120) -> Finished:
        """Wait for a command, and check that it ended as every command must."""
        try:
            stdout, stderr = process.communicate(timeout=timeout)
        finally:
            process.kill()
        return self._ended(Finished(process.returncode, stdout, stderr))

    def run(self, *arguments: str, before: Sequence[str] = ()) -> Finished:
        """Run the command to its end, in this process and with workers of `tests.kept`; not so behind `before`."""
        if before:
            return self.execute(*arguments, before=before)
        file, out, err = self.folder / "pipelines.yaml", io.StringIO(), io.StringIO()
        with _as_if_started(self.temporary), redirect_stdout(out), redirect_stderr(err):
            code = cli.run([*(("-f", str(file)) if file.exists() else ()), *arguments])
        return self._ended(Finished(code, out.getvalue(), err.getvalue()))

    def execute(self, *arguments: str, before: Sequence[str] = ()) -> Finished:
        """Run the command to its end as a user does: in a process that has to start and to import everything."""
        return self.finish(self.start(*arguments, before=before))

    def _ended(self, finished: Finished) -> Finished:
        assert "Traceback" not in finished.stderr, finished.stderr
        assert not self.left_over(), finished.stderr
        return finished

    def left_over(self) -> list[str]:
        """Name what a command must not leave: hidden files of unfinished work, temporary files, processes."""
        hidden = [path for path in self.store.rglob(".*") if path.suffix in (".partial", ".lock")]
        scratch = self.store.rglob("scratch")
        temporary = [path for path in self.temporary.iterdir() if path.name not in _HOST_LOCK]
        return [
            *map(str, (*hidden, *scratch, *temporary)),
            *marked(f"{_MARK}={self.mark}").values(),
            *ZYGOTES.at_work(),
        ]

    def record(self, pipeline: str) -> RunRecord:
        """The newest run.json of a pipeline."""
        newest = max((self.store / pipeline / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime_ns)
        return RunRecord.model_validate_json(newest.read_bytes())

    def artifact(self, pipeline: str, step: str) -> Path:
        """The folder of a pipeline's only artifact of a step."""
        (folder,) = (path for path in (self.store / pipeline / step).glob("[!.]*/") if path.name != "index")
        return folder


def _surroundings() -> dict[str, str]:
    """The environment, without what would send a run elsewhere or hide what it leaves there."""
    return {name: text for name, text in os.environ.items() if name not in _ELSEWHERE}


@contextmanager
def _as_if_started(temporary: Path) -> Iterator[None]:
    """Those surroundings, and a temporary folder, for what runs in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in _ELSEWHERE:
            patch.delenv(name, raising=False)
        patch.setenv("TMPDIR", str(temporary))
        patch.setattr(tempfile, "tempdir", str(temporary))
        yield


def value(name: str, shape: Sequence[int | str | None], dtype: int = FLOAT) -> onnx.ValueInfoProto:
    """Describe an input or output."""
    return helper.make_tensor_value_info(name, dtype, list(shape))


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    **weights: "np.ndarray[Any, Any]",
) -> onnx.ModelProto:
    """Make a model of a few nodes."""
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    made = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), initializers)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def linear(batch: int | str = 2) -> onnx.ModelProto:
    """Make y = x @ w with x of shape [batch, 4]."""
    weights = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    return graph([node], [value("x", [batch, 4])], [value("y", [batch, 3])], w=weights)


def wait_until(happened: Callable[[], bool], process: "subprocess.Popen[str]", timeout: float = 60) -> None:
    """Wait for something that a running command does."""
    deadline = time.monotonic() + timeout
    while not happened():
        assert process.poll() is None, "the command ended too early: " + "".join(process.communicate())
        assert time.monotonic() < deadline
        time.sleep(0.01)
