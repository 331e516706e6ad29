"""Outputs whose number of rows depends on values, as of NMS: rows are matched before they are compared."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.generic]

# Pairs of rows that are looked at one by one; of more, sorted rows are paired.
_MOST_PAIRS = 4_000_000


def row_axis(actual: Sequence[int], expected: Sequence[int]) -> int | None:
    """The one axis in which two shapes differ, None where they differ in none or in more."""
    if len(actual) != len(expected):
        return None
    different = [axis for axis, sizes in enumerate(zip(actual, expected, strict=True)) if sizes[0] != sizes[1]]
    return different[0] if len(different) == 1 else None


def matched_rows(actual: "Array", expected: "Array", axis: int) -> "tuple[Array, Array]":
    """As many rows of both as the side with fewer has, each beside the one that is nearest to it."""
    import numpy as np

    left, right = np.moveaxis(actual, axis, 0), np.moveaxis(expected, axis, 0)
    if not (len(left) and len(right)):
        return left[:0], right[:0]
    pairs = _nearest(_flat(left), _flat(right))
    return left[pairs[:, 0]], right[pairs[:, 1]]


def _flat(rows: "Array") -> "NDArray[np.float64]":
    import numpy as np

    flat = rows.reshape(len(rows), -1).astype(np.float64)
    return np.where(np.isfinite(flat), flat, 0.0)


def _nearest(left: "NDArray[np.float64]", right: "NDArray[np.float64]") -> "NDArray[np.intp]":
    """Pairs of indices; every column counts alike, whatever its unit."""
    import numpy as np

    scale = np.maximum(np.abs(right).max(axis=0), np.finfo(np.float64).tiny)
    left, right = left / scale, right / scale
    if len(left) * len(right) * left.shape[1] > _MOST_PAIRS:
        count = min(len(left), len(right))
        return np.stack([np.lexsort(side.T[::-1])[:count] for side in (left, right)], axis=1)
    distances = np.square(left[:, None] - right[None]).sum(axis=2)
    return np.array(list(_greedy(distances)), dtype=np.intp)


def _greedy(distances: "NDArray[np.float64]") -> "list[tuple[int, int]]":
    """Take the nearest pair of all, then the nearest of what is left, and so on."""
    import numpy as np

    taken: list[tuple[int, int]] = []
    free = [set(range(size)) for size in distances.shape]
    for flat in np.argsort(distances, axis=None, kind="stable"):
        one, other = (int(index) for index in np.unravel_index(flat, distances.shape))
        if one in free[0] and other in free[1]:
            taken.append((one, other))
            free[0].remove(one)
            free[1].remove(other)
        if not (free[0] and free[1]):
            break
    return taken
