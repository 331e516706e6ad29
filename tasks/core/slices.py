"""The part of an output that is furthest off: a norm over the whole hides a channel that is small beside others."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# An axis of more entries is no list of channels, classes or columns.
_MOST_ENTRIES = 512
# Of fewer values, one near zero makes the whole ratio.
_FEWEST_VALUES = 32
# A slice so many times smaller than the usual one holds what rounding leaves of zeros.
_NOISE = 1e-4


class Slice(NamedTuple):
    """One index of one axis, and its relative L2 distance."""

    axis: int
    entry: int
    rel_l2: float


def worst_slice(actual: "NDArray[np.float64]", expected: "NDArray[np.float64]") -> Slice | None:
    """Find the slice with the largest relative L2 distance; None where no axis has slices large enough to judge."""
    import numpy as np

    axes = [axis for axis, entries in enumerate(expected.shape) if _is_judged(entries, expected.size)]
    if not axes:
        return None
    largest = float(np.abs(expected).max(initial=0.0)) or 1.0
    errors, energies = np.square((actual - expected) / largest), np.square(expected / largest)
    return max((_worst(errors, energies, axis) for axis in axes), key=lambda found: found.rel_l2)


def _is_judged(entries: int, size: int) -> bool:
    return 2 <= entries <= _MOST_ENTRIES and size // entries >= _FEWEST_VALUES  # noqa: PLR2004 - one is the whole


def _worst(errors: "NDArray[np.float64]", energies: "NDArray[np.float64]", axis: int) -> Slice:
    import numpy as np

    others = tuple(other for other in range(errors.ndim) if other != axis)
    error, energy = errors.sum(axis=others), energies.sum(axis=others)
    floor = _NOISE**2 * float(np.median(energy)) or np.finfo(np.float64).tiny
    ratios = np.sqrt(error / np.maximum(energy, floor))
    entry = int(ratios.argmax())
    return Slice(axis, entry, float(ratios[entry]))
