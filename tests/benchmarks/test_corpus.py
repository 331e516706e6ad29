"""A few models of onnx's own backend tests, one of each kind that needs something: `make corpus` converts them all."""

import json
from pathlib import Path

import pytest

from benchmarks import corpus
from tests.projects import Project

PASS = (
    "test_Conv1d",  # opset 6 and IR 3: initializers are inputs too
    "test_Embedding",  # integers, whose range only the data shows
    "test_expand_shape_model1",  # an input that is a shape, and no axis in common
    "test_sequence_model1",  # a sequence inside
    "test_sequence_model7",  # float64
    "test_shrink",  # inputs of one axis
)
STRINGS, EMPTY, CANNOT = "test_strnorm_model_nostopwords_nochangecase", "test_sequence_model8", "test_AvgPool2d"


def test_models_of_every_kind_pass_or_are_refused_for_a_true_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = ",".join((*PASS, STRINGS, EMPTY, CANNOT))
    output = tmp_path / "corpus.json"
    corpus.main(["--only", only, "--output", str(output)], lambda folder: Project(folder).run("run", "--json").stdout)
    evidence = json.loads(output.read_text())
    verdicts = {name: verdict["verdict"] for name, verdict in evidence["verdicts"].items()}
    assert verdicts == {**dict.fromkeys(PASS, "passed"), STRINGS: "refused", EMPTY: "refused"}
    assert list(evidence["onnxruntime_does_not_run"]) == [CANNOT]
    assert (evidence["models"], evidence["onnxruntime_runs"], evidence["passed"], evidence["refused"]) == (9, 8, 6, 2)
    assert f"{STRINGS}: refused" in capsys.readouterr().out
