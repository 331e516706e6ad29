"""What a reader wants to know of a run within seconds, in sentences: for the terminal and for the page."""

import shlex
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from flows.evidence import HOP_NAMES, HOPS, Evidence
from tasks.core.metrics import UNBOUNDED
from tasks.core.outcome import EngineOutcome, LatencyOutcome
from tasks.core.promotions import Promotion
from tasks.runtimes.timing import PointFigures

_TEN, _HUNDRED = 10, 100
# Results whose error is explained at once; the chart and the table tell of all.
_FURTHEST = 3


@dataclass(frozen=True)
class Refusal:
    """A result that did not pass: its status, the whole reason, what made its error, and what to do next."""

    id: str
    status: str
    reason: str
    made_by: str
    next_command: str


def figure(error: float) -> str:
    """An error for people."""
    if error >= UNBOUNDED:
        return "NaN or Inf"
    return "0" if error == 0 else f"{error:.2g}" if error >= 1e-3 else f"{error:.1e}"  # noqa: PLR2004 - as usual


def times(ratio: float) -> str:
    """A ratio for people: three digits are enough."""
    return f"{ratio:.2f}" if ratio < _TEN else f"{ratio:.1f}" if ratio < _HUNDRED else f"{ratio:,.0f}"


def point_text(at: dict[str, int]) -> str:
    """A point of the benchmark."""
    return ", ".join(f"{dim} {size}" for dim, size in at.items()) or "its fixed shape"


def promoted_sentence(found: Evidence) -> str:
    """What the run promoted and why, or why nothing."""
    outcome = found.record.outcome
    if outcome.promoted:
        return f"{outcome.promoted.id}: {outcome.promoted.reason}"
    told = next((note for note in found.record.notes if note.startswith("nothing was promoted")), "")
    if told:
        return told
    if outcome.status == "interrupted":
        return "nothing: the run was interrupted"
    return f"nothing: {found.record.failure or 'a required result did not pass'}"


def in_force(current: Promotion | None) -> str:
    """What is in force now, whichever run or person put it there."""
    if current is None:
        return "nothing"
    signed = f", signed by {signer}" if (signer := signer_of(current)) else ""
    return f"{current.id} ({current.key[:12]}) since {current.at[:19].replace('T', ' ')} UTC{signed}"


def signer_of(promotion: Promotion) -> str:
    """Who signed a promotion, where promotions are signed."""
    return promotion.signature.key_id if promotion.signature else ""


def chosen(found: Evidence) -> EngineOutcome | None:
    """The result that speaks for the run: what was promoted, else the first that passed and was timed."""
    promoted = found.record.outcome.promoted
    if promoted:
        return next((engine for engine in found.results if engine.id == promoted.id), None)
    return next((engine for engine in found.results if engine.status == "passed" and engine.latency), None)


def speed_sentences(found: Evidence) -> Iterator[str]:
    """How much faster the chosen result is than the source framework, point by point."""
    engine = chosen(found)
    if engine is None or not engine.latency:
        yield "not known: nothing that passed was timed"
        return
    for point in engine.latency:
        yield _speed(found, engine, point)
    missing = found.measured.baselines_missing if found.measured else None
    if missing:
        yield f"the source framework was not timed: {missing}"


def _speed(found: Evidence, engine: EngineOutcome, point: LatencyOutcome) -> str:
    where, taken = point_text(point.at), f"{point.p50_ms:.3g} ms"
    if point.speedup is None or point.speedup_against is None:
        return f"{engine.id} takes {taken} at {where} (median)"
    other = _timed(found, point.speedup_against, point.at)
    own = _timed(found, engine.id, point.at)
    beside = f"{taken} against {other.latency_p50_ms:.3g} ms" if other else taken
    if any(each.noisy for each in (own, other) if each):
        beside += "; noisy: measure again on a quiet host"
    if point.speedup_ci95 is None:
        sure = "too few turns for an interval"
    else:
        sure = f"95 %: {times(point.speedup_ci95[0])} to {times(point.speedup_ci95[1])}"
    return f"{times(point.speedup)}x as fast as {point.speedup_against} at {where} ({sure}): {beside}"


def _timed(found: Evidence, name: str, at: dict[str, int]) -> PointFigures | None:
    points = found.measured.points if found.measured else ()
    return next((point for point in points if point.name == name and point.at == at), None)


def worst_hop(found: Evidence, engine: EngineOutcome) -> tuple[str, float, float] | None:
    """Name and error of the hop that made most of a result's error, and the error of the whole way."""
    hops = found.hops(engine)
    steps = {name: hops[name] for name in HOPS if name in hops}
    if not steps:
        return None
    name = max(steps, key=steps.__getitem__)
    return HOP_NAMES.get(name, name), steps[name], hops["vs_source"]


def made_by(found: Evidence, engine: EngineOutcome) -> str:
    """Which hop made a result's error, in words; empty where nothing was compared."""
    worst = worst_hop(found, engine)
    if worst is None:
        return ""
    name, error, whole = worst
    if whole == 0 and error == 0:
        return "it has no error"
    return f"its error is made by the {name}: {figure(error)} of {figure(whole)} (relative L2)"


def error_sentences(found: Evidence) -> Iterator[str]:
    """Where the error is made: of the chosen result first, then of those that are furthest from the source."""
    first = chosen(found)
    compared = [engine for engine in found.results if found.hops(engine)]
    furthest = sorted(compared, key=lambda engine: (engine is not first, -found.hops(engine)["vs_source"]))
    for engine in furthest[:_FURTHEST]:
        yield f"{engine.id}: {made_by(found, engine)}"
    if not compared:
        yield "not known: no engine was compared with the source model"


def mostly(found: Evidence) -> str:
    """The hop that makes most of the error in most results."""
    worst = [hop[0] for engine in found.results if (hop := worst_hop(found, engine)) and hop[1] > 0]
    if not worst:
        return ""
    name, count = Counter(worst).most_common(1)[0]
    return f"In the {name}, for {count} of {len(worst)} results" if len(worst) > 1 else f"In the {name}"


def refusals(found: Evidence) -> tuple[Refusal, ...]:
    """Every result that did not pass, those first that a gate or an error kept from it."""
    pipeline = found.record.outcome.pipeline
    return tuple(sorted(_refusals(found, pipeline), key=lambda refusal: refusal.status not in ("failed", "error")))


def _refusals(found: Evidence, pipeline: str) -> Iterator[Refusal]:
    yield from (
        Refusal(
            id=engine.id,
            status=engine.status,
            reason=engine.reason,
            made_by=made_by(found, engine),
            next_command=f"trtflow show {pipeline} --where {shlex.quote(engine.id)}" if found.hops(engine) else "",
        )
        for engine in found.results
        if engine.status != "passed"
    )


def again(found: Evidence) -> dict[str, str]:
    """Commands that give the same again, each with what it does."""
    outcome = found.record.outcome
    pipeline = outcome.pipeline
    commands = {
        f"trtflow run {pipeline}": "the same run; what did not change is taken from the store",
        f"trtflow run {pipeline} --rebenchmark": "measure again",
        f"trtflow plan {pipeline}": "what would run now, and what changed",
    }
    engine = chosen(found)
    if engine and engine.artifact:
        commands[f"trtflow repro {engine.artifact}"] = f"build {engine.id} again from its kept request, and compare"
    if engine and engine.parity:
        commands[f"trtflow show {pipeline} --where {shlex.quote(engine.id)}"] = "name the nodes that add most error"
    commands[f"trtflow report {pipeline} --run {outcome.run}"] = "make this page again"
    return commands
