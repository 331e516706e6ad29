"""The source is run over the declared range, and a size at which it does not run is told with what would be right."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import StepError, UserCodeError
from tasks.core.signature import DimRange, InputSpec, Signature
from tasks.core.tensors import Tensors
from tasks.sources.source_range import Source

SIGNATURE = Signature(
    inputs={"x": InputSpec(dtype="float32", shape=("batch", "height", "width"))},
    dims={
        "batch": DimRange(min=1, opt=2, max=4),
        "height": DimRange(min=16, opt=32, max=64),
        "width": DimRange(min=16, opt=32, max=64),
    },
)
GOLDEN: Tensors = {"x": np.ones((2, 32, 32), np.float32)}


def source(takes: Callable[[tuple[int, ...]], bool], signature: Signature = SIGNATURE) -> Source:
    def infer(feeds: Tensors) -> Tensors:
        shape = feeds["x"].shape
        if not takes(shape):
            raise StepError(f"it does not take {shape}")
        return {"y": feeds["x"].sum(keepdims=True)}

    return Source(infer, GOLDEN, signature, "the model")


def test_a_source_that_runs_everywhere_gives_its_outputs_at_every_point() -> None:
    run = source(lambda _: True).run_range()
    assert len(run.points) == len(run.outputs) == len(run.seconds) == 10
    assert run.limited == ()
    volumes = [float(output["y"].item()) for output in run.outputs]
    assert volumes == [point.volume for point in run.points]


@pytest.mark.parametrize(
    ("takes", "says", "cure"),
    [
        (lambda shape: shape[1] % 4 == 0 and shape[2] % 4 == 0, "height = 35, width = 37", "multiples of 4"),
        (lambda shape: shape[1] % 16 == 0, "height = 35 does not run", "height: {..., step: 16}"),
        (lambda shape: shape[1] == shape[2], "height = 16 does not run", "height and width must be equal"),
        (lambda shape: shape[2] >= 20, "width = 16 does not run", "`dims: {width: {min: 20}}`"),
        (lambda shape: shape[0] < 4, "batch = 4 does not run", "`dims: {batch: {max: 3}}`"),
        (lambda shape: shape[0] == 2, "batch = 1 does not run", "`dims: {batch: {min: 2}}`"),
    ],
)
def test_a_size_that_does_not_run_is_named_with_what_would_be_right(
    takes: Callable[[tuple[int, ...]], bool], says: str, cure: str
) -> None:
    with pytest.raises(UserCodeError) as raised:
        source(takes).run_range()
    assert says in raised.value.message
    assert "in the model itself: it does not take" in raised.value.message
    assert cure in raised.value.cure


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_no_dim_that_is_wrong_at_an_end_goes_unnoticed(data: st.DataObject) -> None:
    axis = data.draw(st.sampled_from([0, 1, 2]))
    name = list(SIGNATURE.dims)[axis]
    dim = SIGNATURE.dims[name]
    bad = data.draw(st.sampled_from([dim.min, dim.max]))
    with pytest.raises(UserCodeError, match=rf"{name} = {bad}"):
        source(lambda shape: shape[axis] != bad).run_range()


def test_an_index_that_a_length_bounds_is_tried_lower_before_the_dim_is_blamed() -> None:
    signature = Signature(
        inputs={
            "x": InputSpec(dtype="float32", shape=("batch", "seq")),
            "last": InputSpec(dtype="int64", shape=("batch",)),
        },
        dims={"batch": DimRange(min=1, opt=2, max=4), "seq": DimRange(min=2, opt=8, max=32)},
    )

    def infer(feeds: Tensors) -> Tensors:
        if feeds["last"].max() >= feeds["x"].shape[1]:
            raise StepError("the index is out of bounds")
        return {"y": feeds["x"][np.arange(len(feeds["x"])), feeds["last"]]}

    golden = {"x": np.ones((2, 16), np.float32), "last": np.array([15, 9])}
    run = Source(infer, golden, signature, "the model").run_range()
    lowered = {point.sizes["seq"]: point.lowered for point in run.points}
    assert lowered[2]
    assert not lowered[32]


def test_sizes_that_would_take_too_long_are_replaced_by_the_largest_that_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [0.0]
    monkeypatch.setattr("tasks.runtimes.range_run.time.perf_counter", lambda: clock[0])
    dims = {"batch": DimRange(min=1, opt=8, max=1024)}
    signature = Signature(inputs={"x": InputSpec(dtype="float32", shape=("batch",))}, dims=dims)

    def infer(feeds: Tensors) -> Tensors:
        clock[0] += 0.1 * len(feeds["x"])
        return {"y": feeds["x"]}

    run = Source(infer, {"x": np.ones(8, np.float32)}, signature, "the model").run_range()
    (limited,) = run.limited
    assert limited.asked == {"batch": 1024}
    assert limited.ran is not None
    assert 150 <= limited.ran["batch"] <= 200
    assert max(point.sizes["batch"] for point in run.points) == limited.ran["batch"]
