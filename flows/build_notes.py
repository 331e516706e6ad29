"""How engines came to be: refitted or built, what that saved, and what an engine that can be refitted costs."""

from collections.abc import Iterator, Sequence

from flows.findings import Finding
from tasks.benchmark import BenchmarkMetrics
from tasks.context import Context
from tasks.runtimes.base import BuildMetrics
from tasks.runtimes.timing import PointFigures

_MIB = 2**20


def build_notes(context: Context, results: Sequence[Finding], measured: BenchmarkMetrics | None) -> Iterator[str]:
    """One sentence for each engine of which there is something to say."""
    for found in results:
        if found.built is None:
            continue
        metrics = context.metrics(found.built, BuildMetrics)
        yield from _way(found, metrics)
        yield from _timing_cache(found, metrics)
        yield from _cost(found, results, measured)


def _way(found: Finding, metrics: BuildMetrics) -> Iterator[str]:
    if not found.target.engine.options.refittable or metrics.seconds is None:
        return
    if metrics.way == "built":
        yield f"{found.target.id}: built in {metrics.seconds:.1f} s, not refitted: {metrics.way_reason}"
        return
    before = metrics.earlier.built_seconds if metrics.earlier else None
    saved = f"; to build it took {before:.1f} s" if before else ""
    yield f"{found.target.id}: refitted in {metrics.seconds:.1f} s from {metrics.way_reason}{saved}"


def _timing_cache(found: Finding, metrics: BuildMetrics) -> Iterator[str]:
    use, cold = metrics.timing_cache, metrics.earlier.cold_seconds if metrics.earlier else None
    if use is None:
        return
    if use.bytes_before and cold and metrics.seconds is not None:
        with_cache = f"built in {metrics.seconds:.1f} s with a timing cache of {use.bytes_before / _MIB:.1f} MiB"
        yield f"{found.target.id}: {with_cache}; without one a graph of this structure took {cold:.1f} s"
    if use.note:
        yield f"{found.target.id}: {use.note}"


def _cost(found: Finding, results: Sequence[Finding], measured: BenchmarkMetrics | None) -> Iterator[str]:
    """Latency against the same engine without `refittable`, where the pipeline builds both."""
    plain = next((other for other in results if _is_plain_form(other, found)), None)
    if plain is None or measured is None:
        return
    for own in (point for point in measured.points if point.name == found.target.id):
        other = next((p for p in measured.points if p.name == plain.target.id and p.at == own.at), None)
        if other is not None:
            ratio = own.latency_p50_ms / other.latency_p50_ms
            yield f"{found.target.id}: refittable costs {ratio - 1:+.1%} latency against {other.name}{_at(own)}"


def _is_plain_form(other: Finding, found: Finding) -> bool:
    """Whether `other` differs in nothing but that it cannot be refitted."""
    ours, theirs = found.target, other.target
    options = ours.engine.options.model_copy(update={"refittable": False})
    same = (ours.engine.runtime, ours.precision) == (theirs.engine.runtime, theirs.precision)
    return ours.engine.options.refittable and same and theirs.engine.options == options


def _at(point: PointFigures) -> str:
    sizes = ", ".join(f"{dim} {size}" for dim, size in point.at.items())
    return f" at {sizes}" if sizes else ""
