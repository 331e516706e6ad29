"""The sizes that a declared range is verified at."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.range_points import RangePoint, between, lowered, range_points
from tasks.core.signature import DimRange, InputSpec, Signature


@st.composite
def ranges(draw: st.DrawFn) -> dict[str, DimRange]:
    found = {}
    for name in draw(st.lists(st.sampled_from(["batch", "height", "seq"]), min_size=1, max_size=3, unique=True)):
        step = draw(st.sampled_from([1, 1, 2, 4, 7]))
        low, opt, high = sorted(draw(st.tuples(*[st.integers(1, 64)] * 3)))
        found[name] = DimRange(min=low * step, opt=opt * step, max=high * step, step=step)
    return found


@given(ranges())
@settings(max_examples=200, deadline=None)
def test_every_end_of_every_dim_is_among_the_points(dims: dict[str, DimRange]) -> None:
    points = [point.sizes for point in range_points(dims)]
    opt = {name: dim.opt for name, dim in dims.items()}
    for which in ("min", "opt", "max"):
        assert {name: getattr(dim, which) for name, dim in dims.items()} in points
    for name, dim in dims.items():
        assert {**opt, name: dim.min} in points
        assert {**opt, name: dim.max} in points
    assert all(dims[name].holds(size) for point in points for name, size in point.items())
    assert len(points) == len({tuple(point.items()) for point in points})


@given(ranges())
@settings(max_examples=200, deadline=None)
def test_sizes_between_are_no_multiple_of_the_others(dims: dict[str, DimRange]) -> None:
    chosen = between(dims)
    for name, dim in dims.items():
        size = chosen[name] // dim.step
        if chosen[name] != dim.opt:
            assert math.gcd(size, dim.opt // dim.step) == math.gcd(size, dim.max // dim.step) == 1
            assert dim.min < chosen[name] < dim.max


def test_a_model_of_fixed_sizes_has_no_points() -> None:
    assert range_points({}) == ()


def test_the_smallest_sizes_come_first() -> None:
    dims = {"batch": DimRange(min=1, opt=8, max=64), "seq": DimRange(min=4, opt=32, max=128)}
    volumes = [point.volume for point in range_points(dims)]
    assert volumes == sorted(volumes)


def test_integers_of_lowered_feeds_lie_below_the_smallest_dim() -> None:
    signature = Signature(
        inputs={
            "x": InputSpec(dtype="float32", shape=("batch", "seq")),
            "last": InputSpec(dtype="int64", shape=("batch",)),
        },
        dims={"batch": DimRange(min=1, opt=2, max=4), "seq": DimRange(min=2, opt=8, max=16)},
    )
    golden = {"x": np.full((2, 16), 9, np.float32), "last": np.array([15, 3])}
    point = RangePoint(sizes={"batch": 4, "seq": 8}, lowered=True)
    feeds = point.feeds(golden, signature)
    assert feeds["last"].tolist() == [3, 3, 3, 3]
    assert feeds["x"].shape == (4, 8)
    assert (feeds["x"] == 9).all()
    assert lowered(golden, {"batch": 1})["last"].tolist() == [0, 0]
