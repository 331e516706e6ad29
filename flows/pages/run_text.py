"""A run told in Markdown: for the Prefect UI, which shows it without the report's page at hand."""

import re
from collections.abc import Iterator, Mapping
from urllib.parse import quote

from flows import blame, speed, story
from flows.asked import asked_of
from flows.evidence import Evidence, evidence
from flows.pages.figures import charts_of
from flows.pages.pictures import data_uri
from flows.pages.run_page import CHART_TITLES, REPORT_PAGE, pictures_of
from flows.records import read_record
from flows.run import Run
from flows.table import cells
from tasks.charts import OPTIONS as CHARTS
from tasks.core.outcome import RunOutcome
from tasks.core.promotions import promotions_in
from tasks.core.store import Store

_NO_HISTORY = "There is one measurement at most so far: from the second on, latency and metric over time are drawn."
# What would be markup, or a piece of HTML, in a name or a message of the user's.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>#|~&$])")


def run_text(run: Run, outcome: RunOutcome, reports_at: str = "") -> str:
    """The verdict, why, the figures, the charts and where the whole report is, as far as the store has them."""
    record = read_record(run.folder)
    found = evidence(run.options.root, record) if record else None
    lines = [*_head(run, outcome)]
    if found:
        lines += _answers(run, found)
    lines += ["## Results", "", *table_text(cells(outcome)), ""]
    if run.notes:
        lines += ["## Notes", "", *(f"- {plain(note)}" for note in run.notes), ""]
    lines += list(_link(run, reports_at))
    if found:
        lines += _charts(run, found)
    return "\n".join(lines) + "\n"


def plain(text: str) -> str:
    """Text that means nothing to Markdown and is no HTML."""
    lines = (" ".join(line.split()) for line in text.splitlines())
    return _MARKUP.sub(r"\\\1", "; ".join(line for line in lines if line))


def table_text(columns: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The same columns as a table of Markdown; what has no rows says so."""
    rows = list(zip(*columns.values(), strict=True))
    if not rows:
        return ["There are none: the run ended before it had any."]
    return [
        f"| {' | '.join(columns)} |",
        f"|{'---|' * len(columns)}",
        *(f"| {' | '.join(map(plain, row))} |" for row in rows),
    ]


def _head(run: Run, outcome: RunOutcome) -> Iterator[str]:
    cached = sum(step.cached for step in outcome.steps)
    yield f"# {plain(run.pipeline)}: {outcome.status}"
    yield ""
    yield (
        f"Run {plain(run.id)}, started {run.started_at[:19].replace('T', ' ')} UTC, took {outcome.seconds:.1f} s, "
        f"{cached} of {len(outcome.steps)} steps cached."
    )
    yield ""
    if run.failure:
        yield from (f"**Failed:** {plain(run.failure)}", "")


def _answers(run: Run, found: Evidence) -> Iterator[str]:
    """What the terminal tells of a run, in its words."""
    asked = asked_of(run.config)
    current = promotions_in(run.store, run.pipeline).state().current
    yield f"- **Promoted:** {plain(asked.named(story.promoted_sentence(found)))}"
    yield f"- **In force:** {plain(story.in_force(current))}"
    yield from (f"- **Speed:** {plain(sentence)}" for sentence in speed.speed_sentences(found))
    yield from (f"- **Error:** {plain(sentence)}" for sentence in blame.error_sentences(found, asked))
    for refusal in story.refusals(found, asked):
        look = f" (to see why: `{refusal.next_command}`)" if refusal.next_command else ""
        yield f"- **{plain(refusal.id)} {refusal.status}:** {plain(refusal.reason)}{look}"
    yield ""


def _link(run: Run, reports_at: str) -> Iterator[str]:
    """A browser follows no link from a server to a file: where the store is not served, the path is to be copied."""
    if run.report is None:
        return
    path = f"{run.pipeline}/runs/{run.id}/{REPORT_PAGE}"
    if reports_at:
        yield f"[The whole report]({reports_at.rstrip('/')}/{quote(path)}), on disk:"
    else:
        yield "The whole report, to open in a browser on that machine:"
    yield from ("", "```", str(run.report), "```", "")


def _charts(run: Run, found: Evidence) -> Iterator[str]:
    if (CHARTS.name, "history") not in found.reports:
        yield from (f"## {CHART_TITLES['history']}", "", _NO_HISTORY, "")
    for kind in ("history", *(chart.kind for chart in charts_of(found, run.config))):
        pictures = _pictures(run.store, found, kind)
        if pictures:
            yield from (f"## {CHART_TITLES[kind]}", "", *pictures, "")


def _pictures(store: Store, found: Evidence, kind: str) -> list[str]:
    return [f"![{plain(title)}]({data_uri(svg)})" for title, svg in pictures_of(store, found, kind).items()]
