"""Other values than those that a graph was traced with: a way through the code that hangs on values shows there."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

from tasks.core.signature import InputSpec, Signature
from tasks.core.tensors import Tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Array: TypeAlias = "NDArray[np.generic]"
_FACTORS = (-1.0, 0.0, 10.0)


def other_values(feeds: Tensors, signature: Signature) -> Iterator[Tensors]:
    """Feeds whose floats are scaled; then feeds whose integers and flags are the lowest, the highest, and any."""
    kinds = {array.dtype.kind for array in feeds.values()}
    for factor in _FACTORS if "f" in kinds else ():
        yield {name: _scaled(array, factor) for name, array in feeds.items()}
    for which in ("lowest", "highest", "any") if kinds - {"f"} else ():
        yield {name: _drawn(array, signature.inputs[name], which) for name, array in feeds.items()}


def _scaled(array: Array, factor: float) -> Array:
    import numpy as np

    return np.asarray(array * np.asarray(factor, array.dtype)) if array.dtype.kind == "f" else array


def _drawn(array: Array, spec: InputSpec, which: Literal["lowest", "highest", "any"]) -> Array:
    """Integers within their declared range, else within that of the values that are known to be valid."""
    import numpy as np

    if array.dtype.kind == "f" or not array.size:
        return array
    low, high = (0, 1) if array.dtype.kind == "b" else spec.range or (int(array.min()), int(array.max()))
    if which != "any":
        return np.full(array.shape, low if which == "lowest" else high).astype(array.dtype)
    return np.random.default_rng(0).integers(int(low), int(high), array.shape, endpoint=True).astype(array.dtype)
