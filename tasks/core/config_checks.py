"""What must hold between the sections of one pipeline; each check lists what is wrong, with the path to it."""

import math
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from tasks.core.config_fields import Point, Problem, nearest, suggest
from tasks.core.config_precision import PRECISIONS, PrecisionConfig
from tasks.core.config_sections import (
    RUNTIMES,
    BenchmarkConfig,
    DataConfig,
    EngineConfig,
    GatesConfig,
    PromoteConfig,
)
from tasks.core.signature import DimRange, InputSpec

Inputs: TypeAlias = dict[str, InputSpec]
Dims: TypeAlias = dict[str, DimRange]
Precisions: TypeAlias = tuple[PrecisionConfig, ...] | None
Engines: TypeAlias = tuple[EngineConfig, ...] | None


def complete(at: Point, dims: Dims) -> Point:
    """Fill in a measuring point: a dim that it leaves out is at its opt."""
    return {**{name: dim.opt for name, dim in dims.items()}, **at}


def input_problems(inputs: Inputs, dims: Dims, *, all_inputs: bool) -> Iterator[Problem]:
    """Every named dim of an input has a range, every range is used, sizes and bounds make sense.

    The model may have more inputs than those, unless they are `all_inputs`.
    """
    if not inputs:
        yield Problem("no input is named", "name the model's inputs", ("inputs",))
    for name, spec in inputs.items():
        yield from _bounds_problems(("inputs", name, "range"), spec)
        for axis, size in enumerate(spec.shape):
            yield from _size_problems(("inputs", name, "shape", axis), size, dims)
    used = {size for spec in inputs.values() for size in spec.shape}
    for dim in sorted(dims.keys() - used) if all_inputs else ():
        names = sorted(str(size) for size in used if isinstance(size, str))
        yield Problem(f"no input has a dim {dim!r}", suggest(dim, names) or "remove it", ("dims", dim))


def _bounds_problems(path: tuple[str, ...], spec: InputSpec) -> Iterator[Problem]:
    if spec.range is None:
        return
    low, high = spec.range
    if not (math.isfinite(low) and math.isfinite(high)):
        yield Problem("the range has no finite ends", "write [lowest, highest]", path)
    elif low > high:
        yield Problem(f"the range begins at {low} and ends at {high}", "write [lowest, highest]", path)


def _size_problems(path: tuple[str | int, ...], size: int | str, dims: Dims) -> Iterator[Problem]:
    if isinstance(size, int) and size < 1:
        yield Problem(f"found the size {size}, expected at least 1", "write a size or the name of a dim", path)
    if isinstance(size, str) and size not in dims:
        near = nearest(size, dims)
        cure = f"{near}add dims: {{{size}: {{min: 1, opt: 8, max: 32}}}} with its own sizes"
        yield Problem(f"{size!r} is a dim without a range", cure, path)


def dim_problems(dims: Dims) -> Iterator[Problem]:
    """Every range is in order."""
    for name, dim in dims.items():
        if not dim.min <= dim.opt <= dim.max:
            found = f"found min {dim.min}, opt {dim.opt}, max {dim.max}"
            yield Problem(f"{found}, expected min <= opt <= max", "put them in order", ("dims", name))
        for end in ("min", "opt", "max"):
            size = getattr(dim, end)
            if size % dim.step:
                near = max(dim.step, size - size % dim.step)
                cure = f"use {near}, or another step"
                yield Problem(f"{end} {size} is no multiple of step {dim.step}", cure, ("dims", name, end))


def point_problems(dims: Dims | None, benchmark: BenchmarkConfig, promote: PromoteConfig) -> Iterator[Problem]:
    """Measuring points lie in the ranges, and promotion looks at one that is measured; no `dims`: not known yet."""
    points = benchmark.at or ({},)
    full = [complete(point, dims or {}) for point in points]
    for index, point in enumerate(points):
        path = ("benchmark", "at", index)
        yield from _outside(path, point, dims)
        if full.index(full[index]) < index:
            yield Problem("the same point is listed twice", "remove one of them", path)
    if promote.at is None:
        return
    outside = list(_outside(("promote", "at"), promote.at, dims))
    yield from outside
    if not outside and complete(promote.at, dims or {}) not in full:
        cure = f"add {_flow(promote.at)} to benchmark.at, or use one of: {', '.join(map(_flow, full))}"
        yield Problem(f"{_flow(promote.at)} is not one of benchmark.at", cure, ("promote", "at"))


def _outside(path: tuple[str | int, ...], point: Point, dims: Dims | None) -> Iterator[Problem]:
    for name, size in point.items() if dims is not None else ():
        dim = (dims or {}).get(name)
        if dim is None:
            cure = suggest(name, dims or {}) or "all its sizes are fixed: remove it"
            yield Problem(f"{name!r} is no dim of this pipeline", cure, (*path, name))
        elif not dim.holds(size):
            cure = f"use {dim.described()}, or change dims.{name}"
            yield Problem(f"{size} is outside the range of {name!r}", cure, (*path, name))


def _flow(point: Point) -> str:
    return "{" + ", ".join(f"{name}: {size}" for name, size in point.items()) + "}"


def variant_problems(precisions: Precisions, engines: Engines) -> Iterator[Problem]:
    """Names are unique, and engines name precisions that are declared."""
    declared = _precision_names(precisions)
    yield from _repeated("precisions", [precision.name for precision in precisions or ()])
    yield from _repeated("engines", [engine.name for engine in engines or ()])
    for index, engine in enumerate(engines or ()):
        for place, name in enumerate(engine.precisions or ()):
            path = ("engines", index, "precisions", place)
            if name not in declared:
                yield Problem(f"{name!r} names no declared precision", suggest(name, declared), path)
            elif name in (engine.precisions or ())[:place]:
                yield Problem(f"{name!r} is listed twice", "remove one of them", path)


def calibrator_problems(precisions: Precisions, engines: Engines) -> Iterator[Problem]:
    """TensorRT's own calibrator serves no other runtime."""
    own = [precision.name for precision in precisions or () if precision.by_tensorrt]
    cure = "use {int8: {method: entropy}}, which puts Q/DQ into the graph"
    if own and engines is None:
        what = f"{own[0]!r} is calibrated by TensorRT 8.6 as it builds, and no engine is named for it"
        yield Problem(what, f"add engines: [{{runtime: tensorrt}}], or {cure}", ("precisions",))
    for index, engine in enumerate(engines or ()):
        wrong = [name for name in own if engine.precisions is None or name in engine.precisions]
        if wrong and engine.runtime != "tensorrt":
            what = f"{wrong[0]!r} is calibrated by TensorRT 8.6 as it builds, which {engine.runtime} does not"
            path = ("engines", index, *(("precisions",) if engine.precisions else ("runtime",)))
            yield Problem(what, f"give this engine `precisions` without it, or {cure}", path)


def _repeated(section: str, names: Sequence[str]) -> Iterator[Problem]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Problem(f"the name {name!r} is already taken", "give each its own 'name'", (section, index))


def gate_problems(precisions: Precisions, engines: Engines, gates: GatesConfig) -> Iterator[Problem]:
    """Every parity gate names a precision, a kind or a result."""
    names = _precision_names(precisions)
    kinds = [precision.kind for precision in precisions or () if precision.kind not in names]
    valid = [*names, *dict.fromkeys(kinds), *_result_ids(names, engines)]
    for key in gates.parity:
        if key not in valid:
            yield Problem(f"{key!r} names no precision, kind or result", suggest(key, valid), ("gates", "parity", key))


def _precision_names(precisions: Precisions) -> list[str]:
    """Names that a precision may be called by; undeclared, any kind may turn out to be there."""
    return list(PRECISIONS) if precisions is None else [precision.name for precision in precisions]


def _result_ids(precisions: list[str], engines: Engines) -> list[str]:
    declared = {label: engine.precisions for engine in engines or () for label in engine.labels}
    chosen = declared or dict.fromkeys(RUNTIMES)
    return [f"{engine}/{name}" for engine, names in chosen.items() for name in names or precisions]


def metric_problems(data: DataConfig, gates: GatesConfig, promote: PromoteConfig) -> Iterator[Problem]:
    """Whatever judges by the metric has one."""
    if data.evaluation and data.evaluation.metric:
        return
    cure = "add data.evaluation.metric"
    if gates.metric_drop is not None:
        yield Problem("'metric_drop' has no metric to drop", cure, ("gates", "metric_drop"))
    if gates.metric_regression is not None:
        yield Problem("'metric_regression' has no metric to compare", cure, ("gates", "metric_regression"))
    if promote.by == "metric":
        yield Problem("there is no metric to promote by", cure, ("promote", "by"))


def quantization_problems(data: DataConfig, precisions: Precisions) -> Iterator[Problem]:
    """Whatever is calibrated has data for it, and a repair that aims at the metric has one."""
    scored = data.evaluation is not None and data.evaluation.metric is not None
    for index, precision in enumerate(precisions or ()):
        path = ("precisions", index)
        if precision.calibrated and data.calibration is None:
            how = f"{precision.kind} by {precision.method}"
            cure = "add data.calibration" + (", or use method: rtn" if precision.kind == "int4" else "")
            yield Problem(f"{how} takes its ranges from calibration data, and there is none", cure, path)
        goals = precision.repair.goals if precision.repair else ()
        if not scored and any(goal.metric_drop is not None for goal in goals):
            cure = "add data.evaluation.metric, or aim at rel_l2 or cosine"
            yield Problem("'repair' aims at metric_drop, and there is no metric", cure, (*path, "repair"))
