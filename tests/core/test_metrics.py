import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.core.errors import StepError
from tasks.core.metrics import UNBOUNDED, OutputError, compare, worst

FLOATS = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8)


def one(actual: object, expected: object, dtype: str = "float32") -> OutputError:
    return compare({"y": np.array(actual, dtype)}, {"y": np.array(expected, dtype)})["y"]


def test_metrics_of_a_known_difference() -> None:
    error = one([3.0, 0.0], [3.0, 4.0])
    assert error.max_abs_error == 4.0
    assert error.rel_l2 == pytest.approx(4 / 5)
    assert error.cosine == pytest.approx(9 / 15)
    assert error.finite


def test_equal_outputs_have_no_error() -> None:
    for value in ([1.5, -2.0], [0.0, 0.0], [], 3.0):
        found = one(value, value)
        assert (found.max_abs_error, found.rel_l2, found.finite) == (0, 0, True)
        assert found.compared == bool(np.any(value))
        assert one(value, value).cosine == pytest.approx(1)


def test_one_side_all_zero() -> None:
    assert one([1.0], [0.0]).rel_l2 == UNBOUNDED
    assert one([1.0], [0.0]).cosine == 0
    assert one([0.0], [1.0]).rel_l2 == 1
    assert one([0.0], [1.0]).cosine == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_outputs_that_are_not_finite_have_no_distance(bad: float) -> None:
    both = [one([[bad, 1]], [[bad, 1]])] if math.isnan(bad) else []  # equal infinities are equal
    for error in (one([[1.0, bad]], [[1.0, 2.0]]), one([[1.0, 2.0]], [[1.0, bad]]), *both):
        assert error == OutputError(
            max_abs_error=UNBOUNDED, rel_l2=UNBOUNDED, cosine=0.0, top1_agreement=0.0, finite=False
        )


def test_top1_agreement_only_where_outputs_look_like_logits() -> None:
    assert one([[1, 2], [2, 1], [0, 1], [0, 1]], [[1, 2], [1, 2], [0, 1], [0, 1]]).top1_agreement == 0.75
    assert one([1.0, 2.0], [1.0, 2.0]).top1_agreement is None
    assert one([[1.0], [2.0]], [[1.0], [2.0]]).top1_agreement is None
    assert one([[[1.0, 2.0]]], [[[1.0, 2.0]]]).top1_agreement is None
    assert one([[1, 2]], [[1, 2]], "int64").top1_agreement is None
    assert one(np.zeros((0, 3)), np.zeros((0, 3))).top1_agreement is None


def test_types_are_compared_in_float64() -> None:
    assert one([200, 0], [0, 200], "uint8").max_abs_error == 200
    assert one([True, False], [True, True], "bool").max_abs_error == 1
    half = compare({"y": np.array([60000], np.float16)}, {"y": np.array([-60000], np.float32)})["y"]
    assert half.max_abs_error == 120000 - 2 * (60000 - float(np.float16(60000)))


def test_names_and_shapes_must_be_the_same() -> None:
    with pytest.raises(StepError, match=r"missing \['b'\], unexpected \['c'\]"):
        compare({"a": np.zeros(1), "c": np.zeros(1)}, {"a": np.zeros(1), "b": np.zeros(1)})
    with pytest.raises(StepError, match=r"output 'y' has shape \(2, 1\), but \(2,\) was expected"):
        compare({"y": np.zeros((2, 1))}, {"y": np.zeros(2)})
    with pytest.raises(StepError, match="only real numbers"):
        compare({"y": np.array(["a"])}, {"y": np.array(["a"])})


@given(FLOATS, st.data())
def test_any_finite_values_give_standard_json_that_reads_back(expected: list[float], data: st.DataObject) -> None:
    size = len(expected)
    actual = data.draw(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=size, max_size=size))
    error = one(actual, expected, "float64")
    assert error.finite
    for text in (error.model_dump_json(), json.dumps(error.model_dump(), allow_nan=False)):
        assert OutputError.model_validate_json(text) == error
    assert 0 <= error.rel_l2 <= UNBOUNDED
    assert -1 <= error.cosine <= 1


@given(FLOATS, st.integers(-40, 40))
def test_relative_metrics_do_not_depend_on_scale(values: list[float], exponent: int) -> None:
    expected = np.clip(np.array(values), -1e6, 1e6).round(3)
    actual = expected + 0.5
    plain, scaled = one(actual, expected, "float64"), one(actual * 2.0**exponent, expected * 2.0**exponent, "float64")
    assert (plain.rel_l2, plain.cosine) == (scaled.rel_l2, scaled.cosine)


def test_worst_is_the_worst_of_every_metric() -> None:
    left = OutputError(max_abs_error=1, rel_l2=0.1, cosine=0.9, top1_agreement=0.8)
    right = OutputError(max_abs_error=2, rel_l2=0.01, cosine=0.95, top1_agreement=None, finite=False)
    joined = OutputError(max_abs_error=2, rel_l2=0.1, cosine=0.9, top1_agreement=0.8, finite=False)
    assert worst([left, right]) == joined
    assert worst([right]).top1_agreement is None
    with pytest.raises(StepError, match="no output to judge"):
        worst([])


def test_nan_is_never_stored() -> None:
    with pytest.raises(ValidationError):
        OutputError(max_abs_error=math.nan, rel_l2=0, cosine=1)
    assert OutputError(max_abs_error=math.inf, rel_l2=0, cosine=1).max_abs_error == UNBOUNDED
