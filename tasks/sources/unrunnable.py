"""A size at which the source does not run: which dims are at fault, and what would be right (in a worker)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TypeAlias

from tasks.core.range_points import Sizes, named
from tasks.core.signature import Signature

Runs: TypeAlias = Callable[[Sizes], bool]
# Multiples that networks most often need: of strides, of windows and of the heads of attention.
_STEPS = (2, 4, 8, 16, 32, 64)
_SHOWN = 4


class Unrunnable:
    """Sizes that do not run; `runs` tries others."""

    def __init__(self, runs: Runs, signature: Signature, sizes: Sizes) -> None:
        self._runs = runs
        self._dims = signature.dims
        self._opt = signature.sizes("opt")
        self._sizes = sizes

    @cached_property
    def at_fault(self) -> list[str]:
        """The dims that differ from opt, or those of them that do not run alone."""
        moved = [name for name, size in self._sizes.items() if size != self._opt[name]]
        if len(moved) > 1:
            alone = [name for name in moved if not self._runs({**self._opt, name: self._sizes[name]})]
            moved = alone or moved
        return moved or list(self._sizes)

    def where(self) -> str:
        """The sizes of the dims at fault."""
        return named(self._own(self._sizes))

    def listed(self, ran: Sequence[Sizes]) -> str:
        """The sizes of the dims at fault at which the source ran; beside another size of another dim is none."""
        worked = dict.fromkeys(named(self._own(sizes)) for sizes in ran)
        worked.pop(self.where(), None)
        return "; ".join(list(worked)[-_SHOWN:])

    def cure(self) -> str:
        """What to write instead: equal dims, a step, or narrower ends, each tried."""
        narrow = " and ".join(f"`dims.{name}`" for name in self.at_fault)
        return next(self._cures(), f"narrow {narrow} to sizes that run, or mend the model")

    def _own(self, sizes: Mapping[str, int]) -> Sizes:
        return {name: sizes[name] for name in self.at_fault}

    def _cures(self) -> Iterator[str]:
        yield from self._equal()
        yield from self._multiples()
        if len(self.at_fault) == 1:
            yield from self._narrowed(self.at_fault[0])

    def _equal(self) -> Iterator[str]:
        """A dim that has to be as large as one at fault."""
        for name in self.at_fault:
            size = self._sizes[name]
            for other, dim in self._dims.items():
                if other != name and dim.holds(size) and self._runs({**self._sizes, other: size}):
                    yield f"{name} and {other} must be equal: give both axes one name, {name!r}, in `inputs`"

    def _multiples(self) -> Iterator[str]:
        """Multiples of which the dims at fault run."""
        for step in _STEPS:
            tried = [self._rounded(step, beside) for beside in (0, step)]
            if all(map(self._fits, tried, (step, step))) and all(map(self._runs, tried)):
                names = ", ".join(f"{name}: {{..., step: {step}}}" for name in self.at_fault)
                yield f"it runs at multiples of {step}: write `dims: {{{names}}}`, or mend the model"

    def _rounded(self, step: int, beside: int) -> Sizes:
        """The sizes at fault rounded up to a multiple, and so much more."""
        return {**self._sizes, **{name: -(-self._sizes[name] // step) * step + beside for name in self.at_fault}}

    def _fits(self, sizes: Sizes, step: int) -> bool:
        """Whether the ends of the ranges are multiples, and these sizes within them and not those that failed."""
        dims = [self._dims[name] for name in self.at_fault]
        ends = all(end % step == 0 for dim in dims for end in (dim.min, dim.opt, dim.max))
        return ends and sizes != self._sizes and all(self._dims[name].holds(sizes[name]) for name in self.at_fault)

    def _narrowed(self, name: str) -> Iterator[str]:
        """The size nearest to the one at fault that runs, if sizes from there to opt do."""
        step, bad, good = self._dims[name].step, self._sizes[name], self._opt[name]
        if bad == good or not self._runs({**self._sizes, name: good}):
            return
        end = "min" if bad < good else "max"
        while abs(good - bad) > step:
            middle = (good + bad) // (2 * step) * step
            good, bad = (middle, bad) if self._runs({**self._sizes, name: middle}) else (good, middle)
        which = "smallest" if end == "min" else "largest"
        yield f"write `dims: {{{name}: {{{end}: {good}}}}}`, the {which} size found to run, or mend the model"
