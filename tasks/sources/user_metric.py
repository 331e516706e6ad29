"""The user's metric over the whole evaluation set (in a worker)."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.core.errors import UserCodeError
from tasks.core.frozen import Frozen
from tasks.core.observe import observing
from tasks.core.report import Observation
from tasks.core.tensors import Tensors, load_batches
from tasks.core.user_code import call_user, load_function


class MetricRequest(Frozen):
    """Outputs to score against targets; `reference` are the source framework's outputs."""

    project: Path
    function: str
    outputs: Path
    targets: Path
    reference: Path
    folder: Path


class MetricReply(Frozen):
    """The metric's value, and what the user's code read for it."""

    value: float
    observed: tuple[Observation, ...]


def measure(request: MetricRequest) -> MetricReply:
    """Call the metric as `(outputs, targets, reference)`, each a dict of arrays over the whole set."""
    arguments = [whole_set(load_batches(path)) for path in (request.outputs, request.targets, request.reference)]
    with observing(request.project, request.folder) as observations:
        function = load_function(request.function, request.project)
        value = call_user(request.function, function, *arguments)
    return MetricReply(value=_as_number(value, request.function), observed=observations())


def whole_set(batches: Sequence[Mapping[str, object]]) -> Tensors:
    """Join batches along axis 0."""
    import numpy as np

    joined: Tensors = {}
    for name in batches[0] if batches else ():
        arrays = [np.atleast_1d(np.asarray(batch[name])) for batch in batches]
        if len({array.shape[1:] for array in arrays}) > 1:
            shapes = sorted({array.shape for array in arrays})
            raise UserCodeError(
                f"{name!r} has other shapes in other evaluation batches, as {shapes[0]} and {shapes[-1]}",
                "pad the evaluation data, so that a metric can see the whole set at once",
            )
        joined[name] = np.concatenate(arrays)
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
