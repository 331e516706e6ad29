"""How much faster than the source framework, and how far that can be trusted: for the terminal and for the page."""

from collections.abc import Iterator
from dataclasses import dataclass

from flows.asked import Asked
from flows.evidence import Evidence
from flows.story import chosen, point_text, times
from tasks.core.outcome import EngineOutcome, LatencyOutcome
from tasks.runtimes.timing import FEWEST_ROUNDS, PointFigures

# A ratio that was computed in two ways, where there is no interval: by how much they may differ unsaid.
_ALIKE = 0.1
HOW = (
    "A speed-up is by turns: in each turn all were timed one right after the other; it is the median over turns of the "
    "ratio of the two medians of a turn, which a host that speeds up or slows down meanwhile does not move. The times "
    "are medians over all samples, so that their ratio can differ from it, most where measurements were noisy. 95 %: "
    f"bootstrap over turns; fewer than {FEWEST_ROUNDS} turns give no interval."
)


@dataclass(frozen=True)
class Speed:
    """A result at one point, beside what it was compared with."""

    id: str
    point: LatencyOutcome
    other: PointFigures | None
    noisy: int
    measured: int

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out that both are equally fast."""
        ci95 = self.point.speedup_ci95
        return ci95 is not None and not ci95[0] <= 1 <= ci95[1]

    @property
    def by_medians(self) -> float | None:
        """Ratio of the medians over all samples, where it is another one than that by turns."""
        ratio, ci95 = self.point.speedup, self.point.speedup_ci95
        if self.other is None or ratio is None:
            return None
        found = self.other.latency_p50_ms / self.point.p50_ms
        low, high = ci95 or (ratio * (1 - _ALIKE), ratio * (1 + _ALIKE))
        return None if low <= found <= high else found

    @property
    def headline(self) -> str:
        """What may be said in large letters."""
        if self.point.speedup is None:
            return f"{self.id} takes {self.point.p50_ms:.3g} ms"
        if self.point.speedup_ci95 is not None and not self.clear:
            return f"No clear difference from {self.point.speedup_against}"
        about = "about " if self.point.speedup_ci95 is None else ""
        return f"{about}{times(self.point.speedup)}x as fast as {self.point.speedup_against}"

    @property
    def detail(self) -> str:
        """The interval, both times, and the other ratio where there is one."""
        ratio, ci95 = self.point.speedup, self.point.speedup_ci95
        if ratio is None:
            return "median over all samples"
        sure = f"95 %: {times(ci95[0])} to {times(ci95[1])}" if ci95 else "no interval: too few turns, measure longer"
        parts = [sure if self.clear or ci95 is None else f"{times(ratio)}x, {sure}"]
        parts += [f"{self.point.p50_ms:.3g} ms against {self.other.latency_p50_ms:.3g} ms"] if self.other else []
        other = self.by_medians
        parts += [f"{times(other)}x by medians, {times(ratio)}x by turns"] if other else []
        return "; ".join(parts)


def speeds(found: Evidence) -> list[Speed]:
    """The chosen result, point by point."""
    engine = chosen(found)
    return [speed_of(found, engine.id, point) for point in engine.latency] if engine else []


def speed_of(found: Evidence, name: str, point: LatencyOutcome) -> Speed:
    """One result at one point."""
    other = timed(found, point.speedup_against, point.at) if point.speedup_against else None
    behind = [each for each in (timed(found, name, point.at), other) if each]
    return Speed(name, point, other, sum(each.noisy for each in behind), len(behind))


def timed(found: Evidence, name: str, at: dict[str, int]) -> PointFigures | None:
    """What the benchmark measured of one at a point."""
    points = found.measured.points if found.measured else ()
    return next((point for point in points if point.name == name and point.at == at), None)


def noise(found: Evidence) -> tuple[int, int]:
    """How many measurements were noisy, of how many."""
    points = found.measured.points if found.measured else ()
    return sum(point.noisy for point in points), len(points)


def doubt(found: Evidence) -> str:
    """Why the speed-up that is told should not be relied upon; empty where nothing speaks against it."""
    every = speeds(found)
    noisy, measured = sum(speed.noisy for speed in every), sum(speed.measured for speed in every)
    if not noisy:
        return ""
    whole = noise(found)
    beside = "" if whole == (noisy, measured) else f" ({whole[0]} of {whole[1]} in the whole benchmark)"
    return f"low confidence: {noisy} of {measured} measurements behind this were noisy{beside}; measure on a quiet host"


def speed_sentences(found: Evidence) -> Iterator[str]:
    """How much faster the chosen result is than the source framework, point by point."""
    every = speeds(found)
    if not every:
        yield "not known: nothing that passed was timed"
        return
    for speed in every:
        where = point_text(speed.point.at)
        yield f"{speed.headline} at {where} ({speed.detail})"
    if doubted := doubt(found):
        yield doubted
    if missing := missing_baseline(found):
        yield missing


def missing_baseline(found: Evidence) -> str:
    """Why there is no time of the source framework; empty where there is one."""
    missing = found.measured.baselines_missing if found.measured else None
    return f"the source framework was not timed: {missing}" if missing else ""


def tie_sentence(found: Evidence, asked: Asked) -> str:
    """How far the next best is behind what was promoted, where it was promoted for its latency."""
    promoted, objective = found.record.outcome.promoted, asked.objective
    if promoted is None or objective.by != "latency_p50_ms":
        return ""
    at = {engine.id: point for engine in found.results if (point := _at(engine, objective.at))}
    ahead = at.pop(promoted.id, None)
    if ahead is None or not at:
        return ""
    passed = [engine.id for engine in found.results if engine.status == "passed" and engine.id in at]
    if not passed:
        return ""
    name = min(passed, key=lambda each: at[each].p50_ms)
    told = f"fastest of {len(passed) + 1} that passed; "
    own, other = timed(found, promoted.id, ahead.at), timed(found, name, ahead.at)
    return told + _behind(name, at[name].p50_ms / ahead.p50_ms - 1, own, other)


def _at(engine: EngineOutcome, at: dict[str, int] | None) -> LatencyOutcome | None:
    return next((point for point in engine.latency if at in (None, point.at)), None)


def _behind(name: str, share: float, own: PointFigures | None, other: PointFigures | None) -> str:
    """By turns where the two were compared so, else by medians and by what turns varied."""
    if own is None or other is None:
        return f"{name} {share:.0%} behind by medians"
    low_high = _compared(own, other)
    if low_high is None:
        varied = max(own.round_variation, other.round_variation)
        if share <= varied:
            return f"{name} {share:.0%} behind by medians, within noise (turns varied by {varied:.0%}): a near tie"
        return f"{name} {share:.0%} behind by medians (turns varied by {varied:.0%})"
    low, high = low_high
    sure = f"95 % by turns: {low:+.0%} to {high:+.0%}"
    noisy = ", both noisy" if own.noisy and other.noisy else ", one of them noisy" if own.noisy or other.noisy else ""
    if low > 0:
        return f"{name} {share:.0%} behind by medians ({sure}{noisy})"
    return f"{name} {share:.0%} behind by medians, not clearly apart ({sure}{noisy}): a near tie"


def _compared(own: PointFigures, other: PointFigures) -> tuple[float, float] | None:
    """By how much longer the other one takes, 95 %, whichever of the two was compared with the other."""
    for found in (*own.speedups, *own.rivals):
        if found.against == other.name and found.ci95:
            return found.ci95[0] - 1, found.ci95[1] - 1
    for found in (*other.speedups, *other.rivals):
        if found.against == own.name and found.ci95:
            return 1 / found.ci95[1] - 1, 1 / found.ci95[0] - 1
    return None
