"""The sizes at which a model is run, so that the whole range that `dims` declares is verified."""

import math
from collections.abc import Iterator, Mapping
from typing import TypeAlias

from tasks.core.feeds import resize
from tasks.core.frozen import Frozen
from tasks.core.signature import DimRange, Signature
from tasks.core.tensors import Tensors

Dims: TypeAlias = Mapping[str, DimRange]
Sizes: TypeAlias = dict[str, int]


class RangePoint(Frozen):
    """One size of every dim; `lowered`: the source takes integer inputs there only below the smallest dim."""

    sizes: Sizes
    lowered: bool = False

    def feeds(self, golden: Tensors, signature: Signature) -> Tensors:
        """Golden inputs at these sizes."""
        feeds = resize(golden, signature, self.sizes)
        return lowered(feeds, self.sizes) if self.lowered else feeds

    @property
    def volume(self) -> int:
        """The product of the sizes: what a run takes grows with it."""
        return math.prod(self.sizes.values())

    def __str__(self) -> str:
        return named(self.sizes)


def lowered(feeds: Tensors, sizes: Mapping[str, int]) -> Tensors:
    """Feeds whose integers lie below the smallest dim: an index is bounded by a length, and nothing says by which."""
    smallest = min(sizes.values())
    return {name: array % smallest if array.dtype.kind in "iu" else array for name, array in feeds.items()}


def named(sizes: Mapping[str, int]) -> str:
    """Sizes in words."""
    return ", ".join(f"{name} = {size}" for name, size in sizes.items())


def range_points(dims: Dims) -> tuple[RangePoint, ...]:
    """All dims at opt; each alone at min and max; all at min and max; one between. The smallest come first.

    Dims whose range is one size are at it. A model without dims has no points.
    """
    if not dims:
        return ()
    unique = {tuple(sizes.items()): RangePoint(sizes=sizes) for sizes in _sizes(dims)}
    return tuple(sorted(unique.values(), key=lambda point: point.volume))


def _sizes(dims: Dims) -> Iterator[Sizes]:
    opt = {name: dim.opt for name, dim in dims.items()}
    yield opt
    for name, dim in dims.items():
        yield {**opt, name: dim.min}
        yield {**opt, name: dim.max}
    yield {name: dim.min for name, dim in dims.items()}
    yield between(dims)
    yield {name: dim.max for name, dim in dims.items()}


def between(dims: Dims) -> Sizes:
    """Sizes inside the ranges that share no factor with opt, max or each other: what only fits those shows there."""
    chosen: Sizes = {}
    for name, dim in dims.items():
        others = {dim.opt // dim.step, dim.max // dim.step, *(size // dims[at].step for at, size in chosen.items())}
        chosen[name] = next((size for size in _inside(dim) if _is_apart(size // dim.step, others)), dim.opt)
    return chosen


def _inside(dim: DimRange) -> Iterator[int]:
    """Sizes between the ends: first those above opt, which lies nearest to what data have."""
    yield from range(dim.opt + dim.step, dim.max, dim.step)
    yield from range(dim.opt - dim.step, dim.min, -dim.step)


def _is_apart(size: int, others: set[int]) -> bool:
    return size > 1 and all(math.gcd(size, other) == 1 for other in others)
