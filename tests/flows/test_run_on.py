"""An engine that several interpreters open: built once, judged and timed by each, and promoted as one.

What opens engines of another version needs a GPU (tests/gpu); the way there is the same for every runtime, so here ONNX
Runtime takes it, by its own Python under another name, which a YAML could not ask for.
"""

import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from flows.journal import Journal
from flows.run import Run, RunOptions, run_pipeline
from tasks.core.config import InterpreterConfig, PipelineConfig
from tasks.core.outcome import RunOutcome
from tasks.runtimes.isolate import Workers
from tests.projects import QUICK, linear

ENGINES = [{"runtime": "onnxruntime"}]


def config() -> PipelineConfig:
    gates = {"latency_regression": 1000.0}  # so that what is promoted is held against the results of the next run
    read = PipelineConfig.model_validate({**QUICK, "model": {"onnx": "model.onnx"}, "engines": ENGINES, "gates": gates})
    opened = tuple(engine.model_copy(update={"run_on": ("other",)}) for engine in read.engines or ())
    return read.model_copy(update={"engines": opened})


def run(folder: Path, module: str | None = None) -> tuple[RunOutcome, Journal]:
    interpreter = InterpreterConfig.model_validate({"python": sys.executable, "module": module})
    options = replace(RunOptions(folder / "artifacts", folder), interpreters={"other": interpreter})
    journal = Journal()
    with Workers() as workers:
        return run_pipeline(Run("net", config(), options, journal), workers), journal


@pytest.fixture
def project(tmp_path: Path) -> Path:
    onnx.save(linear(), tmp_path / "model.onnx")
    return tmp_path


def test_each_that_opens_it_judges_and_times_it(project: Path) -> None:
    outcome, journal = run(project)
    assert outcome.status == "passed", outcome
    own, other = outcome.engines
    assert (own.id, other.id) == ("onnxruntime/fp32", "onnxruntime@other/fp32")
    assert other.engine == "onnxruntime@other"
    assert own.artifact == other.artifact
    for engine in (own, other):
        assert (engine.status, bool(engine.parity), bool(engine.latency)) == ("passed", True, True), engine.reason
    subjects = [subject for step, subject in journal.entries if step in ("build", "parity")]
    assert sorted(subjects) == ["onnxruntime/fp32", "onnxruntime/fp32", "onnxruntime@other/fp32"]
    assert outcome.promoted is not None
    assert outcome.promoted.id == "onnxruntime/fp32"

    again, _ = run(project)
    assert again.promoted == outcome.promoted
    assert {step.step for step in again.steps if not step.cached} == {"promote"}


def test_what_opens_it_is_part_of_what_it_found_and_not_of_what_was_built(project: Path) -> None:
    run(project)
    outcome, journal = run(project, module="tensorrt_lean")
    assert outcome.status == "passed", outcome
    made = {names for names, entry in journal.entries.items() if entry.state not in ("cached", "waiting")}
    assert ("parity", "onnxruntime@other/fp32") in made
    assert ("parity", "onnxruntime/fp32") not in made
    assert ("build", "onnxruntime/fp32") not in made
    assert ("benchmark", "") in made
