"""Step `range`: an engine against the source at every size that `dims` declares, and which step made a difference."""

from pathlib import Path
from typing import TypeAlias

from tasks.context import Context, Files, Work, params
from tasks.core.frozen import Frozen
from tasks.core.metrics import OutputError
from tasks.core.range_points import RangePoint, named
from tasks.core.report import Artifact
from tasks.core.sets import GOLDEN, RANGE, RANGE_OUTPUTS
from tasks.core.signature import Signature
from tasks.core.store import Made
from tasks.core.tolerances import PARITY, Tolerance, excess
from tasks.engine_run import check_runs
from tasks.homes import ONNX
from tasks.runtimes.base import BuildMetrics
from tasks.runtimes.range_check import ComparedPoint, GraphHop, RangeRequest, compare_range
from tasks.runtimes.range_run import spans
from tasks.sources.onnx_graph import ExportMetrics
from tasks.sources.source_range import Limited
from tasks.step import StepOptions, step
from tasks.target import Target

OPTIONS = StepOptions("range", version=1)
# The step's data, then exported, folded and typed graph, and the engine that was built from that.
RangeInputs: TypeAlias = tuple[Artifact, Artifact, Artifact, Artifact, Artifact]
# What a precision costs differs from size to size: so many times its cost on the golden inputs is no fault of a size.
_LEEWAY = 2.0
_SHOWN = 4


class RangeMetrics(Frozen):
    """What was compared, the smallest and largest size of each dim that was, and what was left out as too large."""

    points: tuple[ComparedPoint, ...]
    verified: dict[str, tuple[int, int]]
    limited: tuple[Limited, ...] = ()


@step(OPTIONS)
def verify_range(context: Context, target: Target, signature: Signature, inputs: RangeInputs) -> Artifact:
    """Compare what the engine gave over the range with what the source gave."""
    data, exported, folded, typed, built = inputs
    check_runs(context, built)
    recipe = context.recipe(OPTIONS, target.id, tools=("numpy", "onnxruntime"))
    recipe = recipe.model_copy(update={"params": {"precision": target.precision.kind, "dims": _dims(signature)}})
    recipe = context.using(
        recipe,
        golden=Files(data, (GOLDEN,)),
        source=Files(exported, (RANGE, RANGE_OUTPUTS)),
        engine=Files(built, (RANGE_OUTPUTS,)),
        exported=Files(exported),
        folded=Files(folded),
        typed=Files(typed),
    )
    ran = context.metrics(built, BuildMetrics).range
    source = context.metrics(exported, ExportMetrics).range

    def make(folder: Path) -> Made:
        request = RangeRequest(
            precision=target.precision.kind,
            golden=context.file(data, GOLDEN),
            signature=signature,
            source=source.points,
            source_outputs=context.file(exported, RANGE_OUTPUTS),
            engine=ran.ran,
            engine_outputs=context.optional_file(built, RANGE_OUTPUTS),
            failed=ran.failed,
            graphs=_graphs(context, target, inputs),
        )
        compared = context.call(ONNX, compare_range, request, folder)
        left_out = tuple(Limited(asked=point.sizes, ran=None) for point in ran.too_large)
        metrics = RangeMetrics(
            points=compared.points, verified=spans(ran.ran, signature), limited=(*source.limited, *left_out)
        )
        return Made(params(metrics))

    return context.produce(Work(recipe, make))


def _dims(signature: Signature) -> list[str]:
    return list(signature.dims)


def _graphs(context: Context, target: Target, inputs: RangeInputs) -> tuple[GraphHop, ...]:
    _, exported, folded, typed, _ = inputs
    bounds = {"export": PARITY["fp32"], "fold": PARITY["fp32"], "quantize": PARITY[target.precision.kind]}
    graphs = zip(bounds.items(), (exported, folded, typed), strict=True)
    return tuple(GraphHop(step=name, model=context.model_file(graph), bound=bound) for (name, bound), graph in graphs)


def range_problem(found: RangeMetrics, bound: Tolerance, golden: OutputError) -> str:
    """Say at which sizes an engine is wrong, and at which right; empty where it is right at all.

    `bound` is what its outputs must keep on the golden inputs, `golden` their error there.
    """
    allowed = _allowed(bound, golden)
    problems = [(each, problem) for each in found.points if (problem := _problem(each, allowed))]
    if not problems:
        return ""
    wrong = [each.point for each, _ in problems]
    right = [each.point for each in found.points if each.point not in wrong]
    first, why = next(((each, why) for each, why in problems if each.step), problems[0])
    made = f", made by the step `{first.step}`" if first.step else ""
    told = f"the engine does not compute what the source does at {_listed(wrong)} ({why}{made})"
    return f"{told}; it does at {_listed(right)}" if right else told


def _problem(found: ComparedPoint, allowed: Tolerance) -> str:
    return found.problem if found.error is None else "; ".join(excess(found.error, allowed))


def _allowed(bound: Tolerance, golden: OutputError) -> Tolerance:
    """The bound, or a multiple of the error on the golden inputs where that is more: the metric has accepted it."""
    updates: dict[str, float | None] = {"top1_agreement": None}  # of a batch of one sample it is nought or one
    for name in ("rel_l2", "max_abs_error"):
        limit = getattr(bound, name)
        updates[name] = None if limit is None else max(limit, _LEEWAY * getattr(golden, name))
    if bound.cosine is not None:
        updates["cosine"] = min(bound.cosine, 1 - _LEEWAY * (1 - golden.cosine))
    return bound.model_copy(update=updates)


def _listed(points: "list[RangePoint]") -> str:
    shown = "; ".join(named(point.sizes) for point in points[:_SHOWN])
    more = len(points) - _SHOWN
    return f"{shown} and {more} more sizes" if more > 0 else shown
