"""How far a model's outputs are from the outputs they should equal."""

import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from tasks.core.errors import StepError
from tasks.core.frozen import Frozen
from tasks.core.rows import matched_rows, row_axis
from tasks.core.slices import worst_slice
from tasks.core.tensors import Tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

# JSON has no infinity. The largest finite float stands for it: every JSON reader takes it, it comes back unchanged,
# it is above every bound, and the schema stays a plain number. NaN is never stored.
UNBOUNDED = sys.float_info.max


def _bounded(value: float) -> float:
    if math.isnan(value):
        raise ValueError("a metric is never NaN")
    return max(-UNBOUNDED, min(value, UNBOUNDED))


Bounded = Annotated[float, AfterValidator(_bounded)]


class OutputError(Frozen):
    """The distance of one output from what was expected of it; infinity is kept as `UNBOUNDED`.

    Where either side holds NaN, or Inf that the other side lacks, there is no distance: `finite` is False, the errors
    unbounded, the agreements 0. `top1_agreement` is None where the output does not look like logits.

    Integers and flags are equal or not: their `rel_l2` is the share that differs, `agreement` the share that does not.
    `slice_rel_l2` is that of the worst slice across an axis, `slice_at` says where it lies; None where no axis has
    slices to judge. `rows` are the counts of the actual and the expected rows where those differ: the rest then is
    about the rows that match best. `compared` is False where both sides are empty, or zero everywhere.
    """

    max_abs_error: Bounded
    rel_l2: Bounded
    cosine: Bounded
    top1_agreement: float | None = None
    finite: bool = True
    agreement: float | None = None
    slice_rel_l2: Bounded | None = None
    slice_at: str = ""
    rows: tuple[int, int] | None = None
    compared: bool = True


def compare(actual: Tensors, expected: Tensors) -> dict[str, OutputError]:
    """Measure every output of `actual` against the one of the same name, in float64."""
    missing, unexpected = sorted(expected.keys() - actual.keys()), sorted(actual.keys() - expected.keys())
    if missing or unexpected:
        raise StepError(
            f"the outputs do not have the same names: missing {missing}, unexpected {unexpected}",
            f"both sides must give {sorted(expected)}",
        )
    return {name: _output_error(name, actual[name], expected[name]) for name in expected}


def worst(errors: Iterable[OutputError]) -> OutputError:
    """Join errors into one that is as bad as the worst of them in every metric."""
    every = tuple(errors)
    if not every:
        raise StepError("there is no output to judge", "a model must have an output, and inputs to run it on")
    sliced = max(every, key=lambda error: error.slice_rel_l2 or 0.0)
    return OutputError(
        max_abs_error=max(error.max_abs_error for error in every),
        rel_l2=max(error.rel_l2 for error in every),
        cosine=min(error.cosine for error in every),
        top1_agreement=_least(error.top1_agreement for error in every),
        finite=all(error.finite for error in every),
        agreement=_least(error.agreement for error in every),
        slice_rel_l2=sliced.slice_rel_l2,
        slice_at=sliced.slice_at,
        rows=next((error.rows for error in every if error.rows), None),
        compared=any(error.compared for error in every),
    )


def _least(shares: Iterable[float | None]) -> float | None:
    return min((share for share in shares if share is not None), default=None)


def _output_error(name: str, actual: "Array", expected: "Array") -> OutputError:
    _check_comparable(name, actual, expected)
    rows: tuple[int, int] | None = None
    axis = row_axis(actual.shape, expected.shape)
    if axis is not None:
        rows = actual.shape[axis], expected.shape[axis]
        actual, expected = matched_rows(actual, expected, axis)
    error = _exact_error(actual, expected) if _is_exact(actual, expected) else _real_error(actual, expected)
    nothing = not (actual.any() or expected.any())
    return error.model_copy(update={"rows": rows, "compared": not nothing or rows is not None})


def _is_exact(actual: "Array", expected: "Array") -> bool:
    return actual.dtype.kind in "iub" and expected.dtype.kind in "iub"


def _exact_error(actual: "Array", expected: "Array") -> OutputError:
    """Integers and flags: a class, an index or a token that is nearly right is wrong."""
    import numpy as np

    agreement = float((actual == expected).mean()) if expected.size else 1.0
    largest = np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max(initial=0.0)
    return OutputError(max_abs_error=float(largest), rel_l2=1.0 - agreement, cosine=1.0, agreement=agreement)


def _real_error(actual: "Array", expected: "Array") -> OutputError:
    import numpy as np

    left, right = (tensor.astype(np.float64) for tensor in (actual, expected))
    logits = _looks_like_logits(actual) and _looks_like_logits(expected)
    same = np.isinf(right) & (left == right)  # as a mask of minus infinity has them
    if same.any():
        left, right = np.where(same, 0.0, left), np.where(same, 0.0, right)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        top1 = 0.0 if logits else None
        return OutputError(max_abs_error=UNBOUNDED, rel_l2=UNBOUNDED, cosine=0.0, top1_agreement=top1, finite=False)
    max_abs_error, rel_l2, cosine = _distances(left.ravel(), right.ravel())
    found = worst_slice(left, right)
    return OutputError(
        max_abs_error=max_abs_error,
        rel_l2=rel_l2,
        cosine=cosine,
        top1_agreement=float((actual.argmax(-1) == expected.argmax(-1)).mean()) if logits else None,
        slice_rel_l2=found.rel_l2 if found else None,
        slice_at=f"axis {found.axis}, index {found.entry}" if found else "",
    )


def _check_comparable(name: str, actual: "Array", expected: "Array") -> None:
    if actual.shape != expected.shape and row_axis(actual.shape, expected.shape) is None:
        raise StepError(
            f"output '{name}' has shape {actual.shape}, but {expected.shape} was expected",
            "both sides must run the same inputs and keep the same dims dynamic",
        )
    for tensor in (actual, expected):
        if tensor.dtype.kind in "OSUmMc":
            raise StepError(f"output '{name}' holds {tensor.dtype}: only real numbers can be compared")


def _looks_like_logits(tensor: "Array") -> bool:
    match tensor.shape:
        case (samples, classes):
            return tensor.dtype.kind == "f" and samples > 0 and classes > 1
        case _:
            return False


def _distances(left: "NDArray[np.float64]", right: "NDArray[np.float64]") -> tuple[float, float, float]:
    """Return the largest absolute difference, the relative L2 distance and the cosine of two finite vectors."""
    import numpy as np

    largest = max(float(np.abs(side).max(initial=0.0)) for side in (left, right))
    exponent = math.frexp(largest)[1] - 1
    # Scaling by a power of two is exact, and keeps the squares of huge and of tiny values within float64.
    left, right = np.ldexp(left, -exponent), np.ldexp(right, -exponent)
    difference = left - right
    distance, left_norm, right_norm = (float(np.linalg.norm(vector)) for vector in (difference, left, right))
    max_abs_error = float(np.abs(difference).max(initial=0.0)) * 2.0**exponent
    if left_norm == 0.0 or right_norm == 0.0:
        both = left_norm == right_norm
        rel_l2 = 0.0 if both else (1.0 if right_norm else math.inf)
        return max_abs_error, rel_l2, 1.0 if both else 0.0
    cosine = float(np.dot(left, right)) / (left_norm * right_norm)
    return max_abs_error, distance / right_norm, max(-1.0, min(cosine, 1.0))
