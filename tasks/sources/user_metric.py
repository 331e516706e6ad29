"""The user's metric over the whole evaluation set (in a worker)."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from pydantic import Field

from tasks.core.errors import UserCodeError
from tasks.core.frozen import Frozen
from tasks.core.observe import observing
from tasks.core.report import Observation
from tasks.core.tensors import Tensors, load_batches
from tasks.core.user_code import call_user, load_function

# Noise wins by chance once, where a model guesses; hardly each time.
_SEEDS = range(3)
# A metric that takes longer is not called again for it.
_QUICK_SECONDS = 2.0


class MetricRequest(Frozen):
    """Outputs to score against targets; `reference` are the source framework's outputs.

    `axes` are those on which outputs have their samples, where that is another one than the first.
    With `noised`, outputs that noise has ruined are scored as well: a metric by which they win is a loss.
    """

    project: Path
    function: str
    outputs: Path
    targets: Path
    reference: Path
    folder: Path
    noised: bool = False
    axes: dict[str, int] = Field(default_factory=dict)


class MetricReply(Frozen):
    """The metric's value, and what the user's code read for it; `noised` are its values for ruined outputs."""

    value: float
    noised: tuple[float, ...] = ()
    observed: tuple[Observation, ...]


def measure(request: MetricRequest) -> MetricReply:
    """Call the metric as `(outputs, targets, reference)`, each a dict of arrays over the whole set."""
    made, expected = (whole_set(load_batches(path), request.axes) for path in (request.outputs, request.reference))
    arguments = [made, whole_set(load_batches(request.targets)), expected]
    with observing(request.project, request.folder) as observations:
        function = load_function(request.function, request.project)
        begin = time.perf_counter()
        value = call_user(request.function, function, *arguments)
        is_quick = time.perf_counter() - begin < _QUICK_SECONDS
        noised = tuple(_noised_values(function, arguments)) if request.noised and is_quick else ()
    return MetricReply(value=_as_number(value, request.function), noised=noised, observed=observations())


def _noised_values(function: Callable[..., object], arguments: Sequence[Tensors]) -> Iterator[float]:
    """Score ruined outputs; a metric that does not take them says nothing of which way is better."""
    outputs, targets, reference = arguments
    for seed in _SEEDS:
        try:
            yield _as_number(call_user("", function, _ruined(outputs, seed), targets, reference), "")
        except UserCodeError:
            return


def _ruined(outputs: Tensors, seed: int) -> Tensors:
    """Samples in another order, with as much noise as there is signal."""
    import numpy as np

    generator = np.random.default_rng(seed)
    ruined: Tensors = {}
    for name, array in outputs.items():
        shuffled = array[generator.permutation(len(array))] if array.ndim else array
        ruined[name] = shuffled
        if array.dtype.kind == "f" and array.size:
            values = shuffled.astype(np.float64)
            ruined[name] = (values + values.std() * generator.standard_normal(array.shape)).astype(array.dtype)
    return ruined


def whole_set(batches: Sequence[Mapping[str, object]], axes: Mapping[str, int] | None = None) -> Tensors:
    """Join batches along the axis of their samples: axis 0, unless another one is given."""
    import numpy as np

    joined: Tensors = {}
    for name in batches[0] if batches else ():
        arrays = [np.atleast_1d(np.asarray(batch[name])) for batch in batches]
        axis = min((axes or {}).get(name, 0), arrays[0].ndim - 1)
        if len({(*array.shape[:axis], *array.shape[axis + 1 :]) for array in arrays}) > 1:
            shapes = sorted({array.shape for array in arrays})
            raise UserCodeError(
                f"{name!r} has other shapes in other evaluation batches, as {shapes[0]} and {shapes[-1]}",
                "pad the evaluation data, so that a metric can see the whole set at once",
            )
        joined[name] = np.concatenate(arrays, axis=axis)
    return joined


def _as_number(value: object, function: str) -> float:
    if isinstance(value, str | bytes):  # float() would take "0.9"
        raise UserCodeError(f"{function} returned a {type(value).__name__}", "return a float")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UserCodeError(f"{function} returned a {type(value).__name__}", "return a float") from error
    if not math.isfinite(number):
        raise UserCodeError(f"{function} returned {number}", "return a finite number: NaN would pass no gate")
    return number
