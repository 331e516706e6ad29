"""`trtflow plan`: which steps are cached, which would run, and why."""

import json
import sys
from argparse import Namespace
from collections.abc import Mapping
from typing import TypeAlias

from flows.convert import convert_known, source_facts
from flows.given import load_given
from flows.journal import Journal, StepEntry
from flows.options import Options, chosen, open_store, placed
from flows.submit import ThreadSubmit, Unreached
from tasks.context import Context
from tasks.core.config import InterpreterConfig, PipelineConfig
from tasks.core.errors import ConfigError, NotMade
from tasks.core.names import check_names
from tasks.core.store import Store
from tasks.runtimes.isolate import Workers

Row: TypeAlias = dict[str, str | None]
_WAITS = "what it starts from is made first"


def command(parsed: Namespace, options: Options) -> int:
    """Walk the DAG of each pipeline without computing or writing anything."""
    config, names = load_given(parsed.names, options)
    if options.file.exists():  # else there is nothing but ONNX files, which were looked for already
        check_names(config, options.file)
    store = open_store(options, config)
    plans: dict[str, list[Row]] = {}
    refused: list[ConfigError] = []
    for name, pipeline in chosen(config, names, options).items():
        try:
            plans[name] = _plan(name, pipeline, store, config.interpreters)
        except ConfigError as error:
            refused.append(placed(error, name, options))
    if not (refused and options.json):  # an error is the one object then
        _show(plans, options)
    for other in refused[1:]:
        print(f"trtflow: {other}", file=sys.stderr)
    if refused:
        raise refused[0]
    return 0


def _show(plans: dict[str, list[Row]], options: Options) -> None:
    if options.json:
        print(json.dumps({"plans": [{"pipeline": name, "steps": steps} for name, steps in plans.items()]}))
        return
    for name, steps in plans.items():
        _print(name, steps)


def _plan(
    name: str, pipeline: PipelineConfig, store: Store, interpreters: Mapping[str, InterpreterConfig]
) -> list[Row]:
    journal = Journal()
    with Workers() as workers, ThreadSubmit(journal) as submit:
        context = Context(name, pipeline, store, workers, journal, dry=True, interpreters=interpreters)
        try:
            facts = source_facts(context, submit)
        except NotMade:
            convert_known(context, Unreached(journal, NotMade(_WAITS)), None)
        else:
            convert_known(context, submit, facts)
    journal.planned("benchmark", "")
    steps = [_row(entry) for entry in journal.entries.values()]
    return [*steps, {"step": "promote", "subject": "", "state": "run", "reason": "always runs", "key": None}]


def _row(entry: StepEntry) -> Row:
    key = entry.artifact.key if entry.artifact else None
    reason = {"cached": "", "failed": entry.error}.get(entry.state, _WAITS)
    state = "cached" if entry.state == "cached" else "run"
    return {"step": entry.step, "subject": entry.subject, "state": state, "reason": reason, "key": key}


def _print(name: str, steps: list[Row]) -> None:
    cached = sum(step["state"] == "cached" for step in steps)
    print(f"{name}: {len(steps)} steps, {cached} cached, {len(steps) - cached} to run")
    names = [f"{step['step']} {step['subject']}".rstrip() for step in steps]
    width = max(map(len, names))
    for what, step in zip(names, steps, strict=True):
        print(f"  {step['state']:6}  {what:{width}}  {step['reason']}".rstrip())
