"""Feeds that do not fit the model are named, cutting loses nothing, and generated values are the same again."""

from typing import Any

import numpy as np
import pytest

from tasks.core.errors import ConfigError, UserCodeError
from tasks.core.feeds import check_array, check_feeds, chunks, cut, generate, resize, samples_in
from tasks.core.signature import DimRange, InputSpec, Signature
from tasks.core.tensors import Tensors

SIGNATURE = Signature(
    inputs={
        "image": InputSpec(dtype="float32", shape=("batch", 3, "side", "side")),
        "ids": InputSpec(dtype="int64", shape=("batch", 2), range=(5, 7)),
    },
    dims={"batch": DimRange(min=2, opt=4, max=8), "side": DimRange(min=1, opt=2, max=4)},
)
FIXED = Signature(inputs={"x": InputSpec(dtype="float32", shape=(4, 2))}, dims={})


def feeds(batch: int = 4, side: int = 2) -> Tensors:
    image = np.arange(batch * 3 * side * side, dtype=np.float32).reshape(batch, 3, side, side)
    return {"image": image, "ids": np.arange(batch * 2, dtype=np.int64).reshape(batch, 2)}


@pytest.mark.parametrize(("batch", "side"), [(2, 1), (8, 4), (4, 2)])
def test_feeds_within_the_ranges_are_taken(batch: int, side: int) -> None:
    given = feeds(batch, side)
    assert check_feeds(given, SIGNATURE, "batch 0") is given


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1], "batch 0 is a list"),
        ({"image": feeds()["image"]}, "missing: ['ids']"),
        ({**feeds(), "mask": np.zeros(4)}, "not inputs: ['mask']"),
        ({"image": np.zeros(4), "ids": np.zeros(4), 3: np.zeros(4)}, "not inputs: ['3']"),
        ({**feeds(), "ids": [[1, 2]] * 4}, "input 'ids' is a list"),
        ({**feeds(), "ids": feeds()["ids"].astype(np.int32)}, "input 'ids' has dtype int32, expected int64"),
        ({**feeds(), "image": np.full((4, 3, 2, 2), np.nan, np.float32)}, "input 'image' holds NaN"),
        ({**feeds(), "ids": feeds(6)["ids"]}, "input 'ids' has shape [6, 2], expected ['batch', 2] with {'batch': 4}"),
        ({**feeds(), "ids": feeds()["ids"][0]}, "input 'ids' has shape [2], expected ['batch', 2]"),
        ({**feeds(), "image": feeds()["image"][:, :, :, :1]}, "input 'image' has shape [4, 3, 2, 1]"),
        ({**feeds(), "image": feeds()["image"][:, :2]}, "input 'image' has shape [4, 2, 2, 2]"),
        (feeds(batch=1), "batch = 1, outside its range 2 to 8"),
        (feeds(batch=9), "batch = 9, outside its range 2 to 8"),
        (feeds(side=5), "side = 5, outside its range 1 to 4"),
    ],
)
def test_feeds_that_do_not_fit_are_named(given: Any, words: str) -> None:  # noqa: ANN401 - anything a user may yield
    with pytest.raises(UserCodeError) as caught:
        check_feeds(given, SIGNATURE, "batch 0")
    assert words in str(caught.value)
    assert caught.value.cure


def test_numbers_of_any_dtype_are_taken_where_none_is_asked_for() -> None:
    for dtype in ("float16", "float64", "bool", "uint8"):
        check_array(np.array([], dtype=dtype), None, "target 'label'")


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([None]), np.array([1j]), np.array([b"a"])])
def test_array_of_something_else_than_numbers_is_named(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(UserCodeError, match="target 'label' has dtype"):
        check_array(array, None, "target 'label'")


def test_chunks_of_a_dynamic_batch_hold_every_sample_in_order() -> None:
    parts = list(chunks([feeds(7), feeds(4)], SIGNATURE, 4))
    assert [samples_in(part) for part in parts] == [4, 3, 4]
    assert np.array_equal(np.concatenate([part["ids"] for part in parts[:2]]), feeds(7)["ids"])


def test_rest_that_is_smaller_than_the_model_takes_is_left_out() -> None:
    assert [samples_in(part) for part in chunks([feeds(5)], SIGNATURE, 4)] == [4]


def test_fixed_batch_is_never_cut() -> None:
    batch: Tensors = {"x": np.zeros((4, 2), np.float32)}
    assert [part is batch for part in chunks([batch, batch], FIXED, 1)] == [True, True]


def test_cut_takes_the_samples_of_every_tensor() -> None:
    part = cut(feeds(6), 1, 3)
    assert part["image"].shape == (2, 3, 2, 2)
    assert part["ids"].tolist() == [[2, 3], [4, 5]]


def test_generated_feeds_fit_and_are_the_same_again() -> None:
    sizes = {"batch": 8, "side": 3}
    once, again, other = (generate(SIGNATURE, sizes, seed) for seed in (1, 1, 2))
    check_feeds(once, SIGNATURE, "generated")
    assert all(np.array_equal(once[name], again[name]) for name in once)
    assert not np.array_equal(once["image"], other["image"])
    assert set(np.unique(once["ids"]).tolist()) <= {5, 6, 7}  # both ends of the range belong to it


def test_floats_keep_to_a_range_that_is_given_and_booleans_need_none() -> None:
    inputs = {
        "x": InputSpec(dtype="float16", shape=(500,), range=(-1, 0)),
        "mask": InputSpec(dtype="bool", shape=(500,)),
        "scalar": InputSpec(dtype="float32", shape=()),
    }
    made = generate(Signature(inputs=inputs, dims={}), {}, 3)
    assert -1 <= made["x"].min() <= made["x"].max() <= 0
    assert set(made["mask"].tolist()) == {True, False}
    assert made["scalar"].shape == ()
    assert samples_in({"scalar": made["scalar"]}) == 1


def test_integers_without_a_range_are_refused_by_name() -> None:
    signature = Signature(inputs={"ids": InputSpec(dtype="int64", shape=(2,))}, dims={})
    with pytest.raises(ConfigError) as caught:
        generate(signature, {}, 1)
    assert caught.value.where.path == "inputs.ids.range"


def test_resize_repeats_and_cuts_along_the_named_dims() -> None:
    bigger = resize(feeds(2, 2), SIGNATURE, {"batch": 5, "side": 1})
    assert bigger["image"].shape == (5, 3, 1, 1)
    assert bigger["ids"].tolist() == [[0, 1], [2, 3], [0, 1], [2, 3], [0, 1]]
    assert all(array.flags["C_CONTIGUOUS"] for array in bigger.values())


def test_integers_without_a_range_are_those_of_feeds_that_are_known() -> None:
    inputs = {"x": InputSpec(dtype="float32", shape=(2,)), "ids": InputSpec(dtype="int64", shape=("n",))}
    signature = Signature(inputs=inputs, dims={"n": DimRange(min=1, opt=2, max=4)})
    known: Tensors = {"x": np.ones(2, np.float32), "ids": np.array([7, 9])}
    made = generate(signature, {"n": 3}, 1, known)
    assert made["ids"].tolist() == [7, 9, 7]
    assert made["x"].any()
