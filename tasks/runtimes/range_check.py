"""Compare an engine with the source over the declared range, and find the step that made a difference (in a worker)."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tasks.core.errors import CannotRun, StepError
from tasks.core.frozen import Frozen
from tasks.core.metrics import OutputError, compare, worst
from tasks.core.range_points import RangePoint
from tasks.core.signature import Signature
from tasks.core.tensors import Tensors, load_batches
from tasks.core.tolerances import AGREEMENT, PARITY, Tolerance, excess
from tasks.runtimes.onnxruntime_session import run_unoptimised

# Sizes for which the graphs between source and engine are run too: a fault shows at the first of them.
_EXPLAINED = 2


class GraphHop(Frozen):
    """A graph on the way from source to engine: the step that made it, and how far it may be from the one before."""

    step: str
    model: Path
    bound: Tolerance


class RangeRequest(Frozen):
    """What the source and the engine gave at which points, and the graphs between them, in order."""

    precision: str
    golden: Path
    signature: Signature
    source: tuple[RangePoint, ...]
    source_outputs: Path
    engine: tuple[RangePoint, ...]
    engine_outputs: Path | None
    failed: tuple[tuple[RangePoint, str], ...]
    graphs: tuple[GraphHop, ...]


class ComparedPoint(Frozen):
    """The error of the engine at one point; None where it did not run or gave other shapes, as `problem` says.

    `step` is the step that made the difference, where there is one worth explaining.
    """

    point: RangePoint
    error: OutputError | None
    problem: str = ""
    step: str = ""


class RangeReply(Frozen):
    """Every point that the engine was run at, or failed at."""

    points: tuple[ComparedPoint, ...]


def compare_range(request: RangeRequest) -> RangeReply:
    """Compare every point; run the graphs between source and engine where the two differ."""
    expected = dict(zip(map(str, request.source), load_batches(request.source_outputs), strict=True))
    actual = load_batches(request.engine_outputs) if request.engine_outputs else []
    found = [_compared(point, outputs, expected) for point, outputs in zip(request.engine, actual, strict=True)]
    found += [ComparedPoint(point=point, error=None, problem=problem) for point, problem in request.failed]
    different = [each for each in found if _differs(each, request.precision)][:_EXPLAINED]
    engine = dict(zip(map(str, request.engine), actual, strict=True))
    for each in different:
        name = str(each.point)
        explained = _Explanation(request, expected[name], engine.get(name)).step(each.point)
        found[found.index(each)] = each.model_copy(update={"step": explained})
    return RangeReply(points=tuple(found))


def _compared(point: RangePoint, outputs: Tensors, expected: dict[str, Tensors]) -> ComparedPoint:
    try:
        return ComparedPoint(point=point, error=worst(compare(outputs, expected[str(point)]).values()))
    except StepError as error:
        return ComparedPoint(point=point, error=None, problem=error.message)


def _differs(found: ComparedPoint, precision: str) -> bool:
    return found.error is None or bool(excess(found.error, PARITY[precision]))


@dataclass(frozen=True)
class _Explanation:
    """What was computed at a point by the source and, if it ran, by the engine."""

    request: RangeRequest
    expected: Tensors
    engine: "Tensors | None"

    def step(self, point: RangePoint) -> str:
        """The first step whose result is far from that of the step before; `build` where no graph is."""
        golden = load_batches(self.request.golden)[0]
        feeds = point.feeds(golden, self.request.signature)
        before = self.expected
        for graph in self.request.graphs:
            try:
                (outputs,) = run_unoptimised(graph.model, [feeds])
                apart = excess(worst(compare(outputs, before).values()), graph.bound)
            except CannotRun:  # ONNX Runtime has no kernels for this precision: nothing tells
                return ""
            except StepError:
                return graph.step
            if apart:
                return graph.step
            before = outputs
        return "build" if self._engine_differs(before) else self.request.graphs[-1].step

    def _engine_differs(self, typed: Tensors) -> bool:
        if self.engine is None:
            return True
        try:
            error = worst(compare(self.engine, typed).values())
        except StepError:
            return True
        return error.rel_l2 > AGREEMENT[self.request.precision]


def described(points: Sequence[RangePoint]) -> str:
    """Points in words."""
    return "; ".join(map(str, points))
