"""A few models of onnx's own backend tests, one of each kind that needs something: `make corpus` converts them all."""

import json
from pathlib import Path

import pytest

from benchmarks import corpus

PASS = (
    "test_Conv1d",  # opset 6 and IR 3: initializers are inputs too
    "test_Embedding",  # integers, whose range only the data shows
    "test_expand_shape_model1",  # an input that is a shape, and no axis in common
    "test_sequence_model4",  # a sequence inside
    "test_sequence_model7",  # float64
    "test_add_uint16",
    "test_and2d",  # flags
    "test_resize_downsample_scales_nearest",  # an input of scales, which noise must not replace
    "test_nonmaxsuppression_limit_output_size",  # rows that values decide
    "test_if",  # bodies
    "light_shufflenet",  # a whole network
)
LIMITED = {
    "test_strnorm_model_nostopwords_nochangecase": "strings",
    "test_sequence_model8": "an input without elements",
    "test_training_dropout_default": "random or in training mode",
    "test_constant": "no inputs",
    "test_cast_FLOAT_to_FLOAT8E4M3FN": "narrow types",
    "test_sequence_insert_at_back": "sequences, optionals and maps",
}
CANNOT = "test_AvgPool2d"


def test_models_of_every_kind_pass_or_are_refused_for_their_limit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "corpus.json"
    corpus.main(["--only", ",".join((*PASS, *LIMITED, CANNOT)), "--output", str(output)])
    evidence = json.loads(output.read_text())
    assert {*evidence["passes"]} == {*PASS}
    assert {name: refused["limit"] for name, refused in evidence["refusals"].items()} == LIMITED
    assert {*evidence["onnxruntime_does_not_run"]} <= {CANNOT}
    assert evidence["share_passed_of_those_without_a_limit"] == 1
    assert f"{len(PASS)} passed, 0 failed, 0 wrong" in capsys.readouterr().out
