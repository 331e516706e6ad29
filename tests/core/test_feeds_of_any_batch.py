"""A batch is cut, joined and resized along the dim that is called so, on whichever axis an input has it."""

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core.errors import UserCodeError
from tasks.core.feeds import check_feeds, chunks, cut, generate, join, resize, samples_in
from tasks.core.signature import DimRange, InputSpec, Signature
from tasks.core.tensors import Tensors

BATCH = DimRange(min=1, opt=4, max=12)
_SIZES: list[int | str] = ["batch", "length", 1, 2, 3]
RANKS: st.SearchStrategy[list[int | str]] = st.lists(st.sampled_from(_SIZES), max_size=4)


def _single(shape: list[int | str]) -> bool:
    return shape.count("batch") <= 1


def _signature(shapes: Mapping[str, tuple[int | str, ...]], batch: DimRange = BATCH) -> Signature:
    named = {dim for shape in shapes.values() for dim in shape if isinstance(dim, str)}
    dims = {name: batch if name.startswith("batch") else DimRange(min=1, opt=3, max=5) for name in sorted(named)}
    return Signature(
        inputs={name: InputSpec(dtype="float32", shape=shape) for name, shape in shapes.items()}, dims=dims
    )


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    """At least one input has the batch, anywhere; the others need not."""
    first = draw(RANKS.filter(lambda shape: shape.count("batch") == 1))
    others = draw(st.lists(RANKS.filter(_single), max_size=3))
    low, step = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    batch = DimRange(min=low * step, opt=(low + 1) * step, max=(low + 6) * step, step=step)
    return _signature({f"x{index}": tuple(shape) for index, shape in enumerate([first, *others])}, batch)


def _feeds(signature: Signature, batch: int) -> Tensors:
    return generate(signature, {**signature.sizes("opt"), "batch": batch}, seed=batch)


@given(signatures(), st.data())
def test_chunks_are_valid_and_hold_every_sample_in_order(signature: Signature, data: st.DataObject) -> None:
    takes, axes = signature.dims["batch"], signature.batch_axes()
    sizes = range(takes.min, takes.max + 1, takes.step)
    whole = _feeds(signature, data.draw(st.sampled_from(sizes)))
    size = data.draw(st.integers(1, takes.max))
    parts = list(chunks([whole], signature, size))
    for part in parts:
        check_feeds(part, signature, "a part")
        assert all(array.flags["C_CONTIGUOUS"] for array in part.values())
    taken = sum(samples_in(part, axes) for part in parts)
    assert samples_in(whole, axes) - taken < takes.min
    joined, begin = join(parts, axes), cut(whole, 0, taken, axes)
    assert all(np.array_equal(joined[name], begin[name]) for name in signature.inputs)
    assert all(joined[name] is whole[name] for name in signature.inputs.keys() - axes.keys())


@given(signatures(), st.data())
def test_what_is_cut_and_resized_is_what_the_model_takes(signature: Signature, data: st.DataObject) -> None:
    takes = signature.dims["batch"]
    sizes = {
        name: data.draw(st.sampled_from(range(dim.min, dim.max + 1, dim.step))) for name, dim in signature.dims.items()
    }
    whole = _feeds(signature, takes.opt)
    made = resize(whole, signature, sizes)
    check_feeds(made, signature, "resized")
    assert samples_in(made, signature.batch_axes()) == sizes["batch"]
    smallest = cut(whole, takes.opt - takes.min, takes.opt, signature.batch_axes())
    check_feeds(smallest, signature, "cut")
    for name, array in whole.items():
        assert array.ndim == smallest[name].ndim == made[name].ndim


@pytest.mark.parametrize(
    ("shapes", "dim", "axes"),
    [
        ({"x": ("batch", 16, 32), "h": (2, "batch", 32)}, "batch", {"x": 0, "h": 1}),
        ({"x": ("seq", "batch", 8), "mask": ("batch", "seq")}, "batch", {"x": 1, "mask": 0}),
        ({"x": ("seq", "batch", 8), "mask": ("seq",)}, "batch", {"x": 1}),
        ({"x": ("batch", 3), "scale": ()}, "batch", {"x": 0}),
        ({"x": ("n", 3), "scale": ()}, "n", {"x": 0}),
        ({"x": ("n", "batch_size")}, "batch_size", {"x": 1}),
        ({"x": ("n", 3), "h": (2, "n", 3)}, None, {"x": 0, "h": 0}),
        ({"x": ("batch", "batch")}, None, {"x": 0}),
        ({"x": (4, 3), "scale": ()}, None, {"x": 0}),
        ({"scale": ()}, None, {}),
    ],
)
def test_which_dim_is_the_batch(
    shapes: dict[str, tuple[int | str, ...]], dim: str | None, axes: dict[str, int]
) -> None:
    signature = _signature(shapes)
    assert signature.batch_dim() == dim
    assert signature.batch_axes() == axes


@pytest.mark.parametrize(
    ("size", "words", "cure"),
    [
        (6, "batch = 6, outside its range 8 to 16 in multiples of 4", "larger"),
        (20, "batch = 20, outside its range 8 to 16", "smaller"),
        (10, "batch = 10, outside its range 8 to 16", "a multiple of 4"),
    ],
)
def test_a_batch_outside_its_range_says_which_way(size: int, words: str, cure: str) -> None:
    signature = _signature({"h": (2, "batch")}, DimRange(min=8, opt=12, max=16, step=4))
    with pytest.raises(UserCodeError) as caught:
        check_feeds({"h": np.zeros((2, size), np.float32)}, signature, "batch 0")
    assert words in caught.value.message
    assert cure in caught.value.cure
