"""What a reader of a run must know beside its figures."""

from flows.build_notes import build_notes
from flows.findings import Finding, Findings
from tasks.benchmark import BenchmarkMetrics
from tasks.context import Context
from tasks.core.range_points import named
from tasks.core.report import Artifact
from tasks.runtimes.timing import PointFigures, Speedup
from tasks.sources.collect import DataMetrics
from tasks.sources.float_search import by_operator
from tasks.sources.onnx_fold import FoldMetrics
from tasks.sources.onnx_graph import ExportMetrics
from tasks.sources.onnx_ranges import CalibrationMetrics
from tasks.sources.onnx_repair import RepairedMetrics
from tasks.sources.typed_metrics import TypedMetrics

_MANY_UNSETTLED = 0.1


def notes_of(context: Context, findings: Findings) -> list[str]:
    """One sentence each: what is synthetic, and which measurements were noisy."""
    trunk = findings.trunk
    notes = _synthetic(context.metrics(trunk.data, DataMetrics)) if trunk else []
    notes += [findings.suspected] if findings.suspected else []
    notes += context.metrics(trunk.exported, ExportMetrics).notes if trunk else ()
    notes += _folding(context.metrics(trunk.folded, FoldMetrics)) if trunk else []
    typed = {found.target.precision.name: found for found in findings.results}
    for name, found in typed.items():
        notes += _coverage(name, _typed(context, found.typed)) if found.calibration and found.typed else []
        notes += _calibration(name, context.metrics(found.calibration, CalibrationMetrics)) if found.calibration else []
    for found in findings.results:
        notes += _repair(context, found, findings.benchmark)
        notes += _limited(found)
        notes += [f"{found.target.id}: no table of its layers: {found.no_layers}"] if found.no_layers else []
    notes += build_notes(context, findings.results, findings.benchmark)
    if findings.benchmark and context.config.benchmark.streams and not findings.benchmark.gpu:
        notes.append("benchmark.streams measured nothing: no engine that was timed runs on a GPU with streams")
    return [*notes, *(_measured(findings.benchmark) if findings.benchmark else [])]


def _typed(context: Context, made: Artifact) -> TypedMetrics:
    return context.metrics(made, RepairedMetrics if made.step == "repair" else TypedMetrics)


def _folding(found: FoldMetrics) -> list[str]:
    """What folding was left out, and why: the graph is the same, and may hold more nodes than it need."""
    return [f"folding left out {' and '.join(found.left_out)}: {found.reason}"] if found.left_out else []


def _coverage(name: str, typed: TypedMetrics) -> list[str]:
    lowered, every = typed.computing
    if lowered == every:
        return []
    return [f"{name}: {lowered} of {every} nodes that multiply (MatMul, Conv and the like) run in it, the rest in fp32"]


def _calibration(name: str, found: CalibrationMetrics) -> list[str]:
    notes = []
    if found.samples == 1:
        notes.append(f"{name}: calibrated with a single sample: its ranges are no ranges")
    if found.zeros:
        notes.append(
            f"{name}: {found.zeros[0]!r} and {len(found.zeros) - 1} more are zero in all calibration samples: "
            "their ranges mean nothing"
        )
    if found.samples_also_in_evaluation:
        both = f"{found.samples_also_in_evaluation} of {found.samples} calibration samples"
        notes.append(f"{name}: {both} are also in the evaluation data: its metric is flattered")
    if len(found.unsettled) > found.tensors * _MANY_UNSETTLED:
        which = f"{len(found.unsettled)} of {found.tensors} ranges, as of {found.unsettled[0]!r}"
        notes.append(f"{name}: {which}, differ between the halves of the {found.samples} samples: calibrate with more")
    if found.outliers:
        worst = f"{found.outliers[0]!r}" + (f" and {len(found.outliers) - 1} more" if len(found.outliers) > 1 else "")
        notes.append(f"{name}: outliers decide the range of {worst}: see ranges.json, `exclude` or `repair`")
    return notes


def _repair(context: Context, found: Finding, measured: BenchmarkMetrics | None) -> list[str]:
    if found.target.precision.repair is None or found.typed is None:
        return []
    report = context.metrics(found.typed, RepairedMetrics).repair
    floated = ", ".join(f"{count} {name}" for name, count in by_operator(report.floated).items()) or "nothing"
    before, after = report.before["confirm"].rel_l2, report.after["confirm"].rel_l2
    what = f"repair floated {floated} of {report.quantized_nodes} nodes: rel_l2 {before:.2g} -> {after:.2g}"
    beside = found.target.unrepaired.id
    points = measured.points if measured else ()
    cost = [
        _latency_cost(speedup) + (f" at {_sizes(point)}" if point.at else "")
        for point in points
        for speedup in point.speedups
        if point.name == found.target.id and speedup.against == beside
    ]
    return [f"{found.target.id}: {', '.join([what, *cost])}"]


def _limited(found: Finding) -> list[str]:
    """Up to which size an engine was verified, where the largest would have taken too long or too much memory."""
    if found.over_range is None:
        return []
    return [
        f"{found.target.id}: not verified at {named(limited.asked)}, which would take too long or too much memory; "
        + (f"verified at {named(limited.ran)}" if limited.ran else "nothing as large was run")
        for limited in found.over_range.limited
    ]


def _synthetic(data: DataMetrics) -> list[str]:
    if data.synthetic_evaluation:
        return ["parity and metric were measured on synthetic data: they say nothing about accuracy"]
    if "synthetic" in data.golden_origin:
        return ["parity was measured on synthetic inputs: give evaluation or calibration data for real ones"]
    return []


def _noisy(measured: BenchmarkMetrics) -> list[str]:
    noisy = [point for point in measured.points if point.noisy]
    if not noisy:
        return []
    worst = max(noisy, key=lambda point: point.round_variation)
    at = _sizes(worst) or "its fixed shape"
    return [
        f"{len(noisy)} of {len(measured.points)} measurements were noisy ({worst.name} at {at} varied by "
        f"{worst.round_variation:.0%} between turns): measure again on a quiet host with --rebenchmark"
    ]


def _measured(measured: BenchmarkMetrics) -> list[str]:
    skipped = [f"not measured at {named(p.at)}: {p.name} refuses its inputs: {p.reason}" for p in measured.skipped]
    missing = {f"{point.name}: {point.figures.streams_missing}": None for point in measured.gpu}
    return [*skipped, *_noisy(measured), *(text for text in missing if not text.endswith(": "))]


def _latency_cost(speedup: Speedup) -> str:
    low, high = speedup.ci95 or (0.0, float("inf"))
    if low <= 1 <= high:
        return "no measurable change of latency"
    return f"{1 / speedup.ratio - 1:+.0%} latency"


def _sizes(point: PointFigures) -> str:
    return ", ".join(f"{dim} {size}" for dim, size in point.at.items())
