"""Run the source itself over the range that `dims` declares, and say which dim holds sizes that it cannot run."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from tasks.core.errors import StepError, UserCodeError
from tasks.core.frozen import Frozen
from tasks.core.range_points import RangePoint, Sizes, range_points
from tasks.core.sets import RANGE, RANGE_OUTPUTS
from tasks.core.signature import Signature
from tasks.core.tensors import Tensors, save_batches
from tasks.runtimes.range_run import Budget, within
from tasks.sources.unrunnable import Unrunnable

Infer: TypeAlias = Callable[[Tensors], Tensors]


class Limited(Frozen):
    """A point of the range that would take too long or too much memory, and what ran in its place, if anything."""

    asked: Sizes
    ran: Sizes | None


class SourceRange(Frozen):
    """Where the source ran: its outputs there are what engines are compared with."""

    points: tuple[RangePoint, ...] = ()
    limited: tuple[Limited, ...] = ()


class RangeFile(Frozen):
    """The points as a file, for the keys of the steps that run them."""

    points: tuple[RangePoint, ...]


@dataclass
class RangeRun:
    """What running the source gave; the outputs and the seconds stand beside their point."""

    points: tuple[RangePoint, ...]
    outputs: list[Tensors]
    seconds: list[float]
    limited: tuple[Limited, ...]

    def save(self, folder: Path) -> SourceRange:
        """Write points and outputs into the folder of a step, if there are any."""
        if self.points:
            text = RangeFile(points=self.points).model_dump_json(indent=1)
            (folder / RANGE).write_text(text, encoding="utf-8")
            save_batches(folder / RANGE_OUTPUTS, self.outputs)
        return SourceRange(points=self.points, limited=self.limited)


def read_range(path: Path) -> tuple[RangePoint, ...]:
    """Read the points that `RangeRun.save` wrote."""
    return RangeFile.model_validate_json(path.read_bytes()).points


@dataclass(frozen=True)
class Source:
    """What is run: `subject` names it in messages, `golden` is a batch that it takes."""

    infer: Infer
    golden: Tensors
    signature: Signature
    subject: str

    def run_range(self) -> RangeRun:
        """Run every point; raise UserCodeError for a size at which the source does not run."""
        budget, done, limited = Budget(), RangeRun((), [], [], ()), list[Limited]()
        ran: dict[tuple[int, ...], RangePoint] = {}
        for asked in range_points(self.signature.dims):
            point = within(asked, budget, self.signature)
            if point is None or point.sizes != asked.sizes:
                limited.append(Limited(asked=asked.sizes, ran=point.sizes if point else None))
            if point is None or tuple(point.sizes.values()) in ran:
                continue
            found, outputs = self._at(point, budget, done.points)
            ran[tuple(point.sizes.values())] = found
            done.points = (*done.points, found)
            done.outputs.append(outputs)
            done.seconds.append(budget.last_seconds)
        done.limited = tuple(limited)
        return done

    def _at(self, point: RangePoint, budget: Budget, ran: Sequence[RangePoint]) -> tuple[RangePoint, Tensors]:
        """Run a point; where an integer input may be an index beyond a shorter dim, with smaller integers."""
        try:
            return point, budget.measured(lambda: self.infer(self._feeds(point)), point.volume)
        except StepError as error:
            lower = point.model_copy(update={"lowered": True})
            if self._has_integers() and (outputs := self._tried(lower)) is not None:
                return lower, outputs
            raise self._refusal(point, error, ran) from error

    def _feeds(self, point: RangePoint) -> Tensors:
        return point.feeds(self.golden, self.signature)

    def _has_integers(self) -> bool:
        return any(array.dtype.kind in "iu" for array in self.golden.values())

    def _tried(self, point: RangePoint) -> "Tensors | None":
        try:
            return self.infer(self._feeds(point))
        except StepError:
            return None

    def _runs(self, sizes: Sizes) -> bool:
        lower = (False, True) if self._has_integers() else (False,)
        return any(self._tried(RangePoint(sizes=sizes, lowered=each)) is not None for each in lower)

    def _refusal(self, point: RangePoint, error: StepError, ran: Sequence[RangePoint]) -> UserCodeError:
        unrunnable = Unrunnable(self._runs, self.signature, point.sizes)
        told = f"{unrunnable.where()} does not run in {self.subject} itself: {_cause(error)}"
        if worked := unrunnable.listed([each.sizes for each in ran]):
            told += f" (it runs at {worked})"
        return UserCodeError(told, unrunnable.cure(), error.detail)


def check_numbers(outputs: Sequence[Tensors], subject: str) -> None:
    """Raise UserCodeError where the source itself gives NaN: no engine can be compared with that."""
    import numpy as np

    for batch in outputs:
        for name, values in batch.items():
            if values.dtype.kind == "f" and np.isnan(values).any():
                raise UserCodeError(
                    f"{subject} itself gives NaN in output {name!r}: no engine can be compared with that",
                    "look for NaN among its weights, for a division by zero, or for inputs that it does not take",
                )


def _cause(error: StepError) -> str:
    """What went wrong, without what Python calls that kind of error."""
    first = error.message.strip().splitlines()[0]
    return re.sub(r"^.*? (?:raised (?:\w+\.)*\w+|failed): ", "", first).rstrip(".")
