"""A run in which nothing changed: every step is cached but the promotion, and nothing heavy is imported."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.core.outcome import RunsOutcome
from tests.projects import ROOT, Project

pytestmark = pytest.mark.slow

HEAVY = {"torch", "onnxruntime", "modelopt", "prefect", "onnx", "numpy", "matplotlib", "cryptography"}
_IMPORTED = re.compile(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", re.MULTILINE)


def imported_by(project: Project, *arguments: str) -> tuple[set[str], str]:
    """Top-level packages that a command imports, and its stdout."""
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "flows.cli", *arguments],
        cwd=project.folder,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    modules = _IMPORTED.findall(ended.stderr)
    assert "flows.cli" in modules or "tasks.core.errors" in modules  # what is parsed is what Python prints
    return {module.partition(".")[0] for module in modules}, ended.stdout


@pytest.mark.parametrize(("source", "name"), [("done", "tiny"), ("torch_done", "net")])
def test_a_run_in_which_nothing_changed_imports_nothing_heavy(
    request: pytest.FixtureRequest, source: str, name: str
) -> None:
    project: Project = request.getfixturevalue(source)
    packages, stdout = imported_by(project, "run", name, "--json")
    assert not packages & HEAVY
    (run,) = RunsOutcome.model_validate_json(stdout).runs
    assert run.status == "passed"
    assert run.promoted is not None
    assert {step.step for step in run.steps if not step.cached} == {"promote"}
    assert {step.status for step in run.steps} == {"done"}
    assert {"charts", "facts"} <= {step.step for step in run.steps}
    assert (project.store / name / "runs" / run.run / "report.html").is_file()


@pytest.mark.parametrize("arguments", [("plan", "tiny"), ("show", "tiny")])
def test_looking_imports_nothing_heavy(once: Project, arguments: tuple[str, ...]) -> None:
    assert not imported_by(once, *arguments)[0] & HEAVY


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    packages, _ = imported_by(Project(tmp_path), "--help")
    assert not packages & {*HEAVY, "rich"}
