"""Run something at every point of the declared range, within bounds of time and memory (in a worker)."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tasks.core.memory import available_bytes, forget_peak, peak_bytes
from tasks.core.range_points import RangePoint, Sizes
from tasks.core.signature import Signature
from tasks.core.tensors import Tensors
from tasks.runtimes.base import resident_bytes

# What one size may take. A size that would take more is replaced by the largest that does not.
SECONDS = 20.0
_SHARE_OF_MEMORY = 0.5
# Time grows with the volume, and faster where a size counts twice, as in attention over a sequence.
_SLOWEST_GROWTH, _FASTEST_GROWTH = 1.0, 2.0
# Shorter runs tell more of a first call than of the size.
_TELLING_SECONDS = 0.02
_HALVINGS = 12


@dataclass
class Budget:
    """What runs at smaller sizes took, and so what a larger one will take."""

    seconds: float = SECONDS
    _runs: list[tuple[int, float, float]] = field(default_factory=list)  # volume, seconds, bytes
    _resident: int | None = None  # before the first run: what a smaller run has freed is taken again by a larger one

    def allows(self, volume: int) -> bool:
        """Whether a run of this volume is expected to stay within the bounds; the first run is always allowed."""
        if not self._runs:
            return True
        largest, seconds, size = max(self._runs)
        times = max(1.0, volume / largest)
        in_memory = size * times <= _SHARE_OF_MEMORY * available_bytes()
        return in_memory and seconds * times ** self._growth() <= self.seconds

    @property
    def last_seconds(self) -> float:
        """What the last run took."""
        return self._runs[-1][1] if self._runs else 0.0

    def measured(self, run: Callable[[], Tensors], volume: int) -> Tensors:
        """Run it, and note what it took."""
        if self._resident is None:
            self._resident = resident_bytes()
        forget_peak()
        begin = time.perf_counter()
        outputs = run()
        grown = max(peak_bytes() - self._resident, sum(output.nbytes for output in outputs.values()))
        self._runs.append((volume, time.perf_counter() - begin, grown))
        return outputs

    def _growth(self) -> float:
        """The power of the volume with which time grows, from the two largest runs that tell."""
        telling = sorted({volume: seconds for volume, seconds, _ in self._runs if seconds > _TELLING_SECONDS}.items())
        if len(telling) < 2:  # noqa: PLR2004 - a slope takes two points
            return _SLOWEST_GROWTH
        (less, shorter), (more, longer) = telling[-2:]
        growth = math.log(longer / shorter) / math.log(more / less)
        return max(_SLOWEST_GROWTH, min(growth, _FASTEST_GROWTH))


def within(point: RangePoint, budget: Budget, signature: Signature) -> RangePoint | None:
    """The point itself if the budget allows it, else the largest one on the way to it from opt; None if none is."""
    if budget.allows(point.volume):
        return point
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if budget.allows(_towards(point, middle, signature).volume) else (low, middle)
    found = _towards(point, low, signature)
    return found if budget.allows(found.volume) else None


def _towards(point: RangePoint, share: float, signature: Signature) -> RangePoint:
    sizes: Sizes = {}
    for name, dim in signature.dims.items():
        size = dim.opt + share * (point.sizes[name] - dim.opt)
        sizes[name] = max(dim.min, int(size) // dim.step * dim.step)
    return point.model_copy(update={"sizes": sizes})


def spans(points: Sequence[RangePoint], signature: Signature) -> dict[str, tuple[int, int]]:
    """The smallest and the largest size of each dim among points that ran."""
    ranges = {name: [point.sizes[name] for point in points] for name in signature.dims}
    return {name: (min(sizes), max(sizes)) for name, sizes in ranges.items() if sizes}
