"""The page of one run: one file, which needs nothing beside it."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from flows import blame, speed, story
from flows.asked import Asked, asked_of
from flows.evidence import HOP_NAMES, HOPS, Evidence
from flows.pages.cautions import cautions
from flows.pages.figures import charts_of
from flows.pages.model_facts import model_facts
from flows.pages.render import render
from tasks.charts import OPTIONS as CHARTS
from tasks.charts import Chart
from tasks.core.config import PipelineConfig
from tasks.core.errors import StoreError
from tasks.core.outcome import EngineOutcome, RunOutcome, TimelineEntry
from tasks.core.promotions import Promotion
from tasks.core.report import Artifact
from tasks.core.store import Store
from tasks.drawings.figures import ChartName, DrawReply, Pareto
from tasks.drawings.pareto import front
from tasks.sources.float_search import by_operator
from tasks.sources.onnx_ranges import CalibrationMetrics
from tasks.sources.onnx_repair import RepairedMetrics

REPORT_PAGE = "report.html"
CHART_TITLES = {
    "hops": "Where the error was made",
    "latency": "Latency distributions",
    "sweep": "Sweep over the points",
    "pareto": "Quality against latency",
    "history": "History",
}


@dataclass(frozen=True)
class Row:
    """One line of the timeline; places are shares of its width."""

    entry: TimelineEntry
    state: Literal["ran", "cached", "failed", "not reached"]
    left: float
    width: float


def run_page(store: Store, found: Evidence, config: PipelineConfig, current: Promotion | None) -> str:
    """Make the page of a run from its record, the reports of its artifacts and its charts."""
    record = found.record
    drawn = {chart.kind: chart for chart in charts_of(found, config)}
    fixed, asked = _fixed(_points(found)), asked_of(config)
    pictures = {kind: pictures_of(store, found, kind) for kind in drawn}
    return render(
        "run.html",
        {
            "record": record,
            "outcome": record.outcome,
            "found": found,
            "promoted": story.promoted_sentence(found),
            "in_force": story.in_force(current),
            "same": current is not None
            and record.outcome.promoted is not None
            and (current.id, current.key) == (record.outcome.promoted.id, record.outcome.promoted.key),
            **_answers(found, asked),
            "in_words": {engine.id: _in_words(found, engine, asked) for engine in found.results},
            "row_of": row_of,
            "speed_of": lambda engine, point: speed.speed_of(found, engine.id, point),
            "how": speed.HOW,
            "commands": story.again(found),
            "metric": asked.metric or "metric",
            "fixed": fixed,
            "short": lambda at: story.point_text({dim: size for dim, size in at.items() if dim not in fixed}),
            "baselines": _baselines(found),
            "hops": _hop_table(found),
            "hop_names": [HOP_NAMES.get(name, name) for name in _hops_present(found)],
            "pictures": pictures,
            "front_caption": _front_caption(drawn.get("pareto")),
            "titles": CHART_TITLES,
            "cautions": cautions(found, _missing(record.outcome, pictures)),
            "calibrations": _by_subject(found, "calibrate", CalibrationMetrics),
            "repairs": _by_subject(found, "repair", RepairedMetrics),
            "by_operator": by_operator,
            "model": model_facts(found),
            "timeline": timeline_rows(record.timeline),
            "sources": sources(found),
        },
    )


def pictures_of(store: Store, found: Evidence, kind: str) -> dict[str, str]:
    """The SVG of each picture of a chart, by title; none where the chart was not drawn, or is no longer kept."""
    report = found.reports.get((CHARTS.name, kind))
    return read_pictures(store, report.artifact) if report else {}


def read_pictures(store: Store, drawn: Artifact) -> dict[str, str]:
    """The SVG of each picture of a chart's artifact, by title."""
    try:
        reply = DrawReply.model_validate(store.report(drawn).metrics)
        return {title: store.file(drawn, name).read_text(encoding="utf-8") for name, title in reply.pictures.items()}
    except (StoreError, OSError):
        return {}


def _answers(found: Evidence, asked: Asked) -> dict[str, object]:
    """What the cards at the top hold."""
    every = story.refusals(found, asked)
    return {
        "reason": asked.named(found.record.outcome.promoted.reason) if found.record.outcome.promoted else "",
        "tie": speed.tie_sentence(found, asked),
        "speeds": speed.speeds(found),
        "doubt": speed.doubt(found),
        "noise": speed.noise(found),
        "missing_baseline": speed.missing_baseline(found),
        "refused": [refusal for refusal in every if refusal.refused],
        "not_run": [refusal for refusal in every if not refusal.refused],
        "most_by": blame.mostly(found),
        "errors": list(blame.error_sentences(found, asked)),
        "same_again": story.same_again(found),
        "host": story.host_line(found, asked),
        "measured_when": story.measured_when(found),
    }


def row_of(name: str) -> str:
    """Where a result's row is on the page."""
    return "result-" + re.sub(r"[^\w.-]", "-", name)


def _in_words(found: Evidence, engine: EngineOutcome, asked: Asked) -> list[str]:
    """The verdict, the error beside its bounds, and what made it."""
    words = [asked.named(engine.reason)]
    if engine.parity:
        bound, error = asked.bound(engine), engine.parity.vs_source
        called = "usual bound" if bound and bound.usual else "bound of its gate"
        words += [
            f"{name} {value}" + (f" ({called} {limit:g})" if limit is not None else "")
            for name, value, limit in (
                ("rel_l2", f"{error.rel_l2:.3g}", bound.tolerance.rel_l2 if bound else None),
                ("cosine", f"{error.cosine:.5f}", bound.tolerance.cosine if bound else None),
            )
            if f"{name} " not in engine.reason  # which tells it with its bound
        ]
    sizes = ", ".join(f"{dim} {low} to {high}" for dim, (low, high) in engine.verified.items())
    words += [f"compared with the source at {sizes}"] if sizes else []
    return [word for word in (*words, blame.made_by(found, engine, asked)) if word]


def _front_caption(chart: Chart | None) -> str:
    """What the chart of quality holds, and no more."""
    if not isinstance(chart, Pareto):
        return ""
    parts = ["Green line: what no other result beats in both" if _has_front(chart) else "Ring: promoted"]
    parts += ["hollow: refused, so not timed"] if chart.refused else []
    parts += ["dashed red: the worst that is accepted"] if chart.limit is not None else []
    parts += ["dotted: the source"] if chart.source is not None or chart.source_ms is not None else []
    return "; ".join(parts) + "."


def _has_front(chart: Pareto) -> bool:
    return len(front(chart.results, rises=chart.rises)) > 1  # of one there is no line


def _missing(outcome: RunOutcome, pictures: Mapping[ChartName, dict[str, str]]) -> Iterator[str]:
    for kind, found in pictures.items():
        if not found:
            again = f"trtflow report {outcome.pipeline} --run {outcome.run} draws it"
            yield f"The chart “{CHART_TITLES[kind]}” is missing: not drawn, or no longer in the store; {again}"


def _points(found: Evidence) -> list[dict[str, int]]:
    every: list[dict[str, int]] = []
    for engine in found.results:
        every += [point.at for point in engine.latency if point.at not in every]
    return every


def _fixed(points: list[dict[str, int]]) -> dict[str, int]:
    """Dims that have one size at all points, where there are several points: told once."""
    if len(points) < 2:  # noqa: PLR2004 - a single point is told whole
        return {}
    return {dim: size for dim, size in points[0].items() if all(point.get(dim) == size for point in points)}


def _baselines(found: Evidence) -> dict[str, list[tuple[dict[str, int], float, float | None, float, bool]]]:
    points = found.measured.points if found.measured else ()
    return {
        name: [
            (point.at, point.latency_p50_ms, point.latency_p99_ms, point.throughput_per_s, point.noisy)
            for point in points
            if point.name == name
        ]
        for name in found.baselines()
    }


def _hops_present(found: Evidence) -> list[str]:
    return [name for name in HOPS if any(name in found.hops(engine) for engine in found.results)]


def _hop_table(found: Evidence) -> list[tuple[EngineOutcome, list[float | None], float, int]]:
    """For each result the error of each hop, that of the whole way, and which hop is the largest."""
    rows = []
    names = _hops_present(found)
    for engine in found.results:
        hops = found.hops(engine)
        if hops:
            errors = [hops.get(name) for name in names]
            largest = max(range(len(names)), key=lambda index: errors[index] or 0.0)
            rows.append((engine, errors, hops["vs_source"], largest))
    return rows


def _by_subject(
    found: Evidence, step: str, model: type[CalibrationMetrics] | type[RepairedMetrics]
) -> Mapping[str, CalibrationMetrics | RepairedMetrics]:
    subjects = [subject for name, subject in found.reports if name == step]
    return {subject: metrics for subject in subjects if (metrics := found.metrics(step, subject, model))}


def timeline_rows(timeline: tuple[TimelineEntry, ...]) -> list[Row]:
    """The steps in the order in which they began."""
    whole = max((entry.start + entry.seconds for entry in timeline), default=0.0) or 1.0
    ran = sorted((entry for entry in timeline if entry.status != "not_reached"), key=lambda entry: entry.start)
    waiting = [entry for entry in timeline if entry.status == "not_reached"]
    return [
        Row(entry, _state(entry), 100 * max(entry.start, 0.0) / whole, max(100 * entry.seconds / whole, 0.4))
        for entry in (*ran, *waiting)
    ]


def _state(entry: TimelineEntry) -> Literal["ran", "cached", "failed", "not reached"]:
    if entry.status == "not_reached":
        return "not reached"
    if entry.status == "failed":
        return "failed"
    return "cached" if entry.cached else "ran"


def sources(found: Evidence) -> Iterator[tuple[str, str]]:
    """The user's files that the run was made from, with their digests: the same files give the same run."""
    seen: dict[str, str] = {}
    for report in found.reports.values():
        seen.update(report.recipe.sources)
        for observed in report.observed or ():
            if observed.kind == "file" and not Path(observed.name).is_absolute():
                seen[observed.name] = observed.digest
    yield from sorted(seen.items())
