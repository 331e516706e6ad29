"""Compare a graph, run as it is written, with the source at sizes of the declared range (in a worker)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import StepError
from tasks.core.frozen import Frozen
from tasks.core.metrics import compare, worst
from tasks.core.range_points import RangePoint, named
from tasks.core.signature import Signature
from tasks.core.tensors import Tensors
from tasks.core.tolerances import PARITY, excess
from tasks.runtimes.onnxruntime_session import open_unoptimised, run_batches
from tasks.sources.source_range import RangeRun

if TYPE_CHECKING:
    import onnxruntime

# Sizes at which the source took longer are left to the engines: they run every size, and tell which step was wrong.
CHEAP_SECONDS = 1.0
_SHOWN = 4


class Deviation(Frozen):
    """A size at which a graph does not compute what the source does, and how that shows."""

    point: RangePoint
    problem: str


def deviations(model: Path, run: RangeRun, golden: Tensors, signature: Signature) -> list[Deviation]:
    """Run a graph at every size that is cheap to run; one Deviation for each that differs from the source."""
    cheap = [index for index, seconds in enumerate(run.seconds) if seconds <= CHEAP_SECONDS]
    if not cheap:
        return []
    session = open_unoptimised(model)
    return list(_deviations(session, [(run.points[at], run.outputs[at]) for at in cheap], golden, signature))


def _deviations(
    session: "onnxruntime.InferenceSession",
    expected: Sequence[tuple[RangePoint, Tensors]],
    golden: Tensors,
    signature: Signature,
) -> Iterator[Deviation]:
    for point, outputs in expected:
        try:
            (actual,) = run_batches(session, [point.feeds(golden, signature)])
            problem = "; ".join(excess(worst(compare(actual, outputs).values()), PARITY["fp32"]))
        except StepError as error:  # it does not run there, or gives other shapes
            problem = error.message
        if problem:
            yield Deviation(point=point, problem=problem)


def described(found: Sequence[Deviation], run: RangeRun) -> str:
    """Where the exported graph is wrong, how, and where it is right."""
    wrong = "; ".join(str(each.point) for each in found[:_SHOWN])
    bad = [each.point for each in found]
    right = "; ".join(named(point.sizes) for point in run.points if point not in bad)
    told = f"the exported graph computes something else than the module where {wrong}: {found[0].problem}"
    return f"{told} (right where {right})" if right else told
