"""A whole run on a GPU: built, verified, timed with all its figures, its layers told, and promoted."""

from pathlib import Path

import onnx
import pytest

from flows.commands.layers import Shown
from tasks.benchmark import BenchmarkMetrics
from tasks.core.config import RuntimeName
from tasks.core.store import read_report
from tests.gpu.conftest import needs
from tests.projects import Project
from tests.runtimes.contract import Case

pytestmark = pytest.mark.gpu


@pytest.fixture
def project(tmp_path: Path, given: Case) -> Project:
    for module in ("rich", "yaml", "onnx_graphsurgeon", "onnxruntime"):
        needs(module)
    folder = tmp_path / "project"
    folder.mkdir()
    onnx.save(onnx.load(given.model), folder / "net.onnx")
    made = Project(folder)
    made.write(
        net={
            "model": {"onnx": "net.onnx"},
            "dims": {"batch": {"min": 1, "opt": 4, "max": 16}},
            "precisions": ["fp32"],
            "engines": [{"runtime": "tensorrt"}],
            "benchmark": {"seconds": 0.2, "baselines": False, "streams": [1, 2]},
        }
    )
    return made


def test_an_engine_is_told_with_its_layers_and_figures(name: RuntimeName, project: Project) -> None:
    assert name
    done = project.execute("run", "--json")
    assert done.code == 0, done.stdout + done.stderr
    assert done.engine("net", "tensorrt/fp32").status == "passed", done.stdout
    assert done.status("net", "layers") == "done", done.stdout
    metrics = BenchmarkMetrics.model_validate(read_report(project.artifact("net", "benchmark")).metrics)
    (point,) = metrics.gpu
    assert [found.streams for found in point.throughput] == [1, 2], point.figures.streams_missing
    assert all(found.throughput_per_s > 0 for found in point.throughput)

    shown = project.execute("show", "net", "--layers", "--json")
    assert shown.code == 0, shown.stderr
    assert Shown.model_validate_json(shown.stdout).metrics.layers > 0
    assert "layers," in project.execute("show", "net", "--layers").stdout

    again = project.execute("run", "--json")
    assert {step.step for step in again.runs["net"].steps if not step.cached} <= {"promote"}
