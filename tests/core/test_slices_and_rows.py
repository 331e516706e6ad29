"""What a norm over a whole output hides: a ruined channel, another number of rows, integers that are nearly right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.metrics import OutputError, compare
from tasks.core.tolerances import PARITY, excess

EXAMPLES = settings(max_examples=60, deadline=None)


def error(actual: "np.ndarray[tuple[int, ...], np.dtype[np.generic]]", expected: object) -> OutputError:
    return compare({"y": actual}, {"y": np.asarray(expected)})["y"]


@given(st.data())
@EXAMPLES
def test_no_precision_passes_with_a_channel_that_is_lost(data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    shape = data.draw(st.sampled_from([(4, 8, 6, 6), (2, 40, 5), (3, 64, 12), (64, 3)]))
    axis = data.draw(st.sampled_from([axis for axis in range(len(shape)) if np.prod(shape) // shape[axis] >= 32]))
    entry = data.draw(st.integers(0, shape[axis] - 1))
    expected = rng.standard_normal(shape) * 300 + 100
    at: list[slice | int] = [slice(None)] * len(shape)
    at[axis] = entry
    expected[tuple(at)] = rng.random(expected[tuple(at)].shape)  # scores beside boxes
    actual = expected.copy()
    ways = {"zero": 0.0 * actual[tuple(at)], "flipped": 1 - actual[tuple(at)]}
    actual[tuple(at)] = ways[data.draw(st.sampled_from(["zero", "flipped"]))]
    found = error(actual.astype(np.float32), expected.astype(np.float32))
    assert found.rel_l2 < PARITY["int8"].rel_l2  # type: ignore[operator]
    if found.slice_rel_l2 is not None and found.slice_rel_l2 >= 0.9:
        assert found.slice_at == f"axis {axis}, index {entry}"
    assert any("slice_rel_l2" in sentence for sentence in excess(found, PARITY["fp16"]))


@given(st.integers(0, 1000))
@EXAMPLES
def test_what_is_right_everywhere_passes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    expected = rng.standard_normal((8, 16, 40)).astype(np.float32)
    for kind, noise in (("fp32", 1e-6), ("fp16", 1e-3), ("int8", 0.05)):
        actual = expected * (1 + noise * rng.standard_normal(expected.shape)).astype(np.float32)
        assert excess(error(actual, expected), PARITY[kind]) == []


def test_a_channel_of_rounding_beside_large_ones_is_no_fault() -> None:
    expected = np.random.default_rng(1).standard_normal((4, 8, 64)).astype(np.float32)
    expected[:, 3] = 0
    actual = expected.copy()
    actual[:, 3] = 1e-8
    assert excess(error(actual, expected), PARITY["fp32"]) == []


@given(st.integers(0, 1000), st.integers(1, 5))
@EXAMPLES
def test_integers_that_are_nearly_right_are_wrong(seed: int, wrong: int) -> None:
    rng = np.random.default_rng(seed)
    expected = rng.integers(30_000, 31_000, (2, 20))
    actual = expected.copy()
    actual.flat[:wrong] += 1
    found = error(actual, expected)
    assert found.agreement == 1 - wrong / 40
    assert excess(found, PARITY["fp32"])
    assert error(expected, expected).agreement == 1.0


def test_flags_are_judged_by_the_share_that_agrees() -> None:
    expected = np.array([True, False, False, False])
    assert error(np.array([True, True, False, False]), expected).agreement == 0.75


def test_infinities_of_a_mask_are_equal_where_both_sides_have_them() -> None:
    expected = np.array([[1.0, -np.inf], [2.0, -np.inf]], np.float32)
    assert error(expected.copy(), expected).finite
    assert not error(np.array([[1.0, -np.inf], [-np.inf, 2.0]], np.float32), expected).finite
    assert not error(np.array([[np.nan, -np.inf], [2.0, -np.inf]], np.float32), expected).finite


@given(st.integers(0, 1000), st.permutations(range(12)))
@EXAMPLES
def test_rows_are_matched_whatever_their_order(seed: int, order: list[int]) -> None:
    boxes = np.random.default_rng(seed).random((12, 6)) * [640, 640, 640, 640, 1, 80]
    found = error(boxes[order][:-3], boxes)
    assert found.rows == (9, 12)
    assert found.rel_l2 < 1e-12
    assert "the number of rows differs: 9 instead of 12" in excess(found, PARITY["fp32"])


def test_many_rows_are_matched_in_no_time() -> None:
    boxes = np.random.default_rng(1).random((20_000, 6))
    assert error(boxes[::-1][:-1], boxes).rows == (19_999, 20_000)


@pytest.mark.parametrize("shape", [(0, 6), (3, 6)])
def test_outputs_that_are_empty_or_zero_were_not_compared(shape: tuple[int, int]) -> None:
    assert not error(np.zeros(shape), np.zeros(shape)).compared
    assert error(np.ones((3, 6)), np.zeros((3, 6))).compared
    assert error(np.zeros((0, 6)), np.zeros((2, 6))).rows == (0, 2)
