"""The JSON Schemas: as recorded, and true of the documents that trtflow writes and reads.

To record a change that is meant: trtflow schema NAME > tests/golden/NAME.schema.json
"""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.commands import Call
from tests.projects import ROOT, Project

GOLDEN = ROOT / "tests" / "golden"


def golden(name: str) -> dict[str, Any]:
    schema = json.loads((GOLDEN / f"{name}.schema.json").read_text())
    assert isinstance(schema, dict)
    return schema


def conforms(document: object, name: str) -> bool:
    return bool(jsonschema.Draft202012Validator(golden(name)).is_valid(document))


@pytest.mark.parametrize("name", ["pipelines", "run", "report"])
def test_a_schema_is_as_recorded(once: Project, call: Call, name: str) -> None:
    said = call(once, "schema", name)
    jsonschema.Draft202012Validator.check_schema(said.json)
    assert said.out == (GOLDEN / f"{name}.schema.json").read_text()


def test_no_pipelines_yaml_is_needed(tmp_path: Path, call: Call) -> None:
    assert call(Project(tmp_path), "schema", "run").code == 0


def test_what_run_prints_conforms(done: Project, call: Call) -> None:
    assert conforms(call(done, "run", "tiny", "bad", "--json").json, "run")


def test_every_report_of_every_step_conforms(once: Project, torch_once: Project) -> None:
    reports = [path for project in (once, torch_once) for path in project.store.glob("*/*/[!.]*/report.json")]
    assert {path.parents[1].name for path in reports} == {
        *(
            "inspect",
            "data",
            "export",
            "fold",
            "judge",
            "quantize",
            "build",
            "parity",
            "range",
            "evaluate",
            "benchmark",
            "facts",
            "charts",
        )
    }
    for path in reports:
        assert conforms(json.loads(path.read_text()), "report"), path


def test_the_example_and_the_pipelines_of_the_tests_conform(once: Project, torch_once: Project) -> None:
    for path in (ROOT / "pipelines.yaml", once.folder / "pipelines.yaml", torch_once.folder / "pipelines.yaml"):
        assert conforms(yaml.safe_load(path.read_text()), "pipelines"), path


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("pipelines", {"version": 1, "pipelines": {"tiny": {"model": {"onnx": "m.onnx"}, "precision": ["fp32"]}}}),
        ("pipelines", {"version": 1, "pipelines": {"tiny": {"model": {"onnx": "m.onnx"}, "precisions": ["fp61"]}}}),
        ("pipelines", {"version": 2, "pipelines": {"tiny": {"model": {"onnx": "m.onnx"}}}}),
        ("run", {"runs": [{"pipeline": "tiny", "status": "fine"}]}),
        ("report", {"schema_version": 1}),
    ],
)
def test_what_is_wrong_does_not_conform(name: str, document: object) -> None:
    assert not conforms(document, name)
