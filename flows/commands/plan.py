"""`trtflow plan`: which steps are cached, which would run, and why."""

import json
from argparse import Namespace

from flows.convert import convert
from flows.journal import Journal, StepEntry
from flows.options import Options, chosen, store_root
from flows.submit import ThreadSubmit
from tasks.context import Context
from tasks.core.config import PipelineConfig
from tasks.core.names import check_names
from tasks.core.store import Store
from tasks.core.yaml_source import load_config
from tasks.runtimes.isolate import Workers


def command(parsed: Namespace, options: Options) -> int:
    """Walk the DAG of each pipeline without computing anything."""
    config = load_config(options.file)
    check_names(config, options.file)
    store = Store(store_root(options, config), options.project)
    plans = {name: _plan(name, pipeline, store) for name, pipeline in chosen(config, parsed.names).items()}
    if options.json:
        print(json.dumps({"plans": [{"pipeline": name, "steps": steps} for name, steps in plans.items()]}))
        return 0
    for name, steps in plans.items():
        print(name)
        for step in steps:
            what = f"{step['step']} {step['subject']}".strip()
            print(f"  {step['state']:7} {what:32} {step['reason']}".rstrip())
    return 0


def _plan(name: str, pipeline: PipelineConfig, store: Store) -> list[dict[str, str | None]]:
    journal = Journal()
    with Workers() as workers, ThreadSubmit(journal) as submit:
        context = Context(name, pipeline, store, workers, journal, dry=True)
        convert(context, submit)
    journal.planned("benchmark", "")
    steps = [_row(entry) for entry in journal.entries.values()]
    always: dict[str, str | None] = {"step": "promote", "subject": "", "state": "run", "reason": "always", "key": None}
    return [*steps, always]


def _row(entry: StepEntry) -> dict[str, str | None]:
    key = entry.artifact.key if entry.artifact else None
    reason = {"cached": "", "failed": entry.error}.get(entry.state, "what it is made from is not there yet")
    state = "cached" if entry.state == "cached" else "run"
    return {"step": entry.step, "subject": entry.subject, "state": state, "reason": reason, "key": key}
