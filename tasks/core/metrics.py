"""How far a model's outputs are from the outputs they should equal."""

import math
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from tasks.core.errors import StepError
from tasks.core.frozen import Frozen
from tasks.core.tensors import Tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

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

    Where either side holds NaN or Inf there is no distance: `finite` is False, the errors unbounded, the agreements 0.
    `top1_agreement` is None where the output does not look like logits.
    """

    max_abs_error: Bounded
    rel_l2: Bounded
    cosine: Bounded
    top1_agreement: float | None = None
    finite: bool = True


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
    agreements = [error.top1_agreement for error in every if error.top1_agreement is not None]
    return OutputError(
        max_abs_error=max(error.max_abs_error for error in every),
        rel_l2=max(error.rel_l2 for error in every),
        cosine=min(error.cosine for error in every),
        top1_agreement=min(agreements, default=None),
        finite=all(error.finite for error in every),
    )


def _output_error(name: str, actual: "NDArray[np.generic]", expected: "NDArray[np.generic]") -> OutputError:
    import numpy as np

    _check_comparable(name, actual, expected)
    left, right = (tensor.astype(np.float64).ravel() for tensor in (actual, expected))
    logits = _looks_like_logits(actual) and _looks_like_logits(expected)
    if not (np.isfinite(left).all() and np.isfinite(right).all()):
        top1 = 0.0 if logits else None
        return OutputError(max_abs_error=UNBOUNDED, rel_l2=UNBOUNDED, cosine=0.0, top1_agreement=top1, finite=False)
    max_abs_error, rel_l2, cosine = _distances(left, right)
    top1 = float((actual.argmax(-1) == expected.argmax(-1)).mean()) if logits else None
    return OutputError(max_abs_error=max_abs_error, rel_l2=rel_l2, cosine=cosine, top1_agreement=top1)


def _check_comparable(name: str, actual: "NDArray[np.generic]", expected: "NDArray[np.generic]") -> None:
    if actual.shape != expected.shape:
        raise StepError(
            f"output '{name}' has shape {actual.shape}, but {expected.shape} was expected",
            "both sides must run the same inputs and keep the same dims dynamic",
        )
    for tensor in (actual, expected):
        if tensor.dtype.kind in "OSUmMc":
            raise StepError(f"output '{name}' holds {tensor.dtype}: only real numbers can be compared")


def _looks_like_logits(tensor: "NDArray[np.generic]") -> bool:
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
