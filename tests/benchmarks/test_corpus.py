"""A few models of onnx's own backend tests, one of each kind that needs something: `make corpus` converts them all."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PASS = (
    "test_Conv1d",  # opset 6 and IR 3: initializers are inputs too
    "test_Embedding",  # integers, whose range only the data shows
    "test_expand_shape_model1",  # an input that is a shape, and no axis in common
    "test_sequence_model1",  # a sequence inside
    "test_sequence_model7",  # float64
    "test_shrink",  # inputs of one axis
)
STRINGS, EMPTY, CANNOT = "test_strnorm_model_nostopwords_nochangecase", "test_sequence_model8", "test_AvgPool2d"


def test_models_of_every_kind_pass_or_are_refused_for_a_true_reason(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/corpus.py", "--output", str(tmp_path / "corpus.json")]
    only = ",".join((*PASS, STRINGS, EMPTY, CANNOT))
    done = subprocess.run([*command, "--only", only], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    evidence = json.loads((tmp_path / "corpus.json").read_text())
    verdicts = {name: verdict["verdict"] for name, verdict in evidence["verdicts"].items()}
    assert verdicts == {**dict.fromkeys(PASS, "passed"), STRINGS: "refused", EMPTY: "refused"}
    assert list(evidence["onnxruntime_does_not_run"]) == [CANNOT]
    assert (evidence["models"], evidence["onnxruntime_runs"], evidence["passed"], evidence["refused"]) == (9, 8, 6, 2)
    assert f"{STRINGS}: refused" in done.stdout
