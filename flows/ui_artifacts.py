"""What the Prefect UI shows of a run beside its steps: tags, a line in each step's log, a table and a text."""

import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import httpx
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger

from flows import step_words
from flows.journal import StepEntry
from flows.pages.run_text import run_text
from flows.run import Run
from flows.table import cells
from tasks.core.errors import TrtflowError
from tasks.core.outcome import RunOutcome

# Where somebody serves the folder of the store: the text then holds a link to the report that a browser follows.
REPORTS_URL = "TRTFLOW_REPORTS_URL"


def artifact_key(pipeline: str) -> str:
    """The key of a pipeline's text, of which each run adds a version; made of small letters, digits and dashes only."""
    slug = re.sub(r"[^a-z0-9]+", "-", pipeline.lower()).strip("-")
    told_apart = "" if slug == pipeline else f"-{hashlib.sha256(pipeline.encode()).hexdigest()[:6]}"
    return f"trtflow-{slug}{told_apart}"


def log_step(run: Run, step: tuple[str, str], returned: object) -> None:
    """Leave the step's one line in the log of the task run around."""
    entry = run.journal.entries.get(step) or StepEntry(*step)
    told = step_words.result(run.options.root, returned)
    line = step_words.ended(run.pipeline, entry).strip() + (f": {told}" if told else "")
    log = get_run_logger()
    (log.error if entry.state == "failed" else log.info)("%s", line)


def tag_flow_run(run: Run, names: Iterable[str]) -> None:
    """Add to the tags of the flow run around: precisions and runtimes, to filter by."""
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        return
    with get_client(sync_client=True) as client:
        have = set(client.read_flow_run(context.flow_run.id).tags)
        wanted = have | {run.pipeline, *names}
        if wanted != have:
            client.update_flow_run(context.flow_run.id, tags=sorted(wanted))


@contextmanager
def shown_in_ui(run: Run) -> Iterator[None]:
    """Drive the run inside: what came out is then left with the flow run around, also where an error ended it."""
    try:
        yield
    except TrtflowError:
        if run.outcome:
            _publish(run, run.outcome)
        raise
    if run.outcome:
        _publish(run, run.outcome)


def _publish(run: Run, outcome: RunOutcome) -> None:
    """Leave the run's table and text; a server that does not take them fails nothing."""
    columns = cells(outcome)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    rows = rows or [{"engine": "none", "verdict": outcome.status, "reason": run.failure or ""}]
    text = run_text(run, outcome, os.environ.get(REPORTS_URL, ""))
    told = f"{run.pipeline}: {outcome.status}, run {run.id}"
    try:
        tag_flow_run(run, {part for engine in outcome.engines for part in (engine.precision, engine.runtime)})
        create_table_artifact(rows, description=f"{told}: every result")
        create_markdown_artifact(text, artifact_key(run.pipeline), description=told)
    except (httpx.HTTPError, PrefectHTTPStatusError) as error:
        run.note(f"the Prefect UI lacks this run's table and text: {error}")
