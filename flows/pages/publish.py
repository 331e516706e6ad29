"""Draw the charts of a run and of its pipeline, and write their pages into the store."""

from dataclasses import replace
from pathlib import Path

from flows.evidence import Evidence, evidence
from flows.history import NEWEST, history_of, past_of, with_run
from flows.pages.figures import charts_of
from flows.records import pull_newest
from flows.submit import Submit
from tasks.charts import Chart, charts
from tasks.context import Context
from tasks.core.config import PipelineConfig, complete
from tasks.core.errors import ArtifactDamaged, NotMade, TrtflowError
from tasks.core.files import store_errors, write_atomically
from tasks.core.outcome import RunRecord, TimelineEntry
from tasks.core.promotions import promotions_in
from tasks.core.store import read_report


def draw_charts(context: Context, submit: Submit, found: Evidence) -> list[str]:
    """Draw what there is to draw, all at once; a chart that cannot be drawn is told of, and fails nothing."""
    pull_newest(context.store, context.pipeline, NEWEST)
    measured = found.reports.get(("benchmark", ""))
    samples = measured.artifact if measured else None
    wanted: list[Chart] = list(charts_of(found, context.config))
    history = history_of(with_run(past_of(context.store, context.pipeline), found.record), objective_at(context.config))
    wanted += [history] if history else []
    drawn = [
        (chart.kind, submit(charts, chart.kind, context, chart, samples if chart.kind == "latency" else None))
        for chart in wanted
    ]
    problems = []
    for kind, result in drawn:
        try:
            result.result()
        except ArtifactDamaged:
            raise
        except TrtflowError as error:
            problems.append(f"the report lacks the chart {kind!r}: {error}")
    return problems


def write_run_page(context: Context, record: RunRecord, drawn: tuple[TimelineEntry, ...] = ()) -> Path:
    """Write the page of a run beside its record; `drawn` are charts that were drawn after the run."""
    from flows.pages.run_page import REPORT_PAGE, run_page

    store, pipeline = context.store, context.pipeline
    path = store.root / pipeline / "runs" / record.outcome.run / REPORT_PAGE
    current = promotions_in(store, pipeline).state().current
    found = evidence(store.root, record)
    found.reports.update({(each.step, each.subject): read_report(store.root / str(each.artifact)) for each in drawn})
    text = run_page(store, found, context.config, current)
    with store_errors(store.root):
        write_atomically(path, text)
    return path


def write_index_page(context: Context) -> Path:
    """Write the page of the pipeline, with its chart if that was drawn."""
    from flows.pages.index_page import INDEX_PAGE, index_page
    from flows.pages.run_page import read_pictures

    store, pipeline = context.store, context.pipeline
    past = past_of(store, pipeline)
    history = history_of(past, objective_at(context.config))
    pictures, missing = {}, "There is one measurement so far: from the second on, they are drawn."
    if history:
        try:
            pictures = read_pictures(store, charts(replace(context, dry=True), history))
        except NotMade:
            missing = f"There is something new that was not drawn yet: trtflow report {pipeline} does it."
    path = store.root / pipeline / INDEX_PAGE
    current = promotions_in(store, pipeline).state().current
    with store_errors(store.root):
        write_atomically(path, index_page(past, current, pictures, missing))
    return path


def objective_at(config: PipelineConfig) -> dict[str, int] | None:
    """The point that promotions are decided at; None: the first that is measured."""
    return None if config.promote.at is None else complete(config.promote.at, config.dims)
