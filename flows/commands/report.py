"""`trtflow report`: the page of one run, and of its pipeline, made anew."""

import json
from argparse import Namespace
from pathlib import Path

from flows.evidence import evidence
from flows.history import NEWEST
from flows.journal import Journal
from flows.options import Options, chosen, open_store, placed
from flows.pages.publish import draw_charts, write_index_page, write_run_page
from flows.records import pull_newest, read_record, run_folders
from flows.submit import ThreadSubmit
from flows.terminal import Progress, tell
from tasks.context import Context
from tasks.core.config import PipelineConfig
from tasks.core.errors import ArtifactDamaged, ConfigError, TrtflowError
from tasks.core.outcome import RunRecord
from tasks.core.store import Store
from tasks.core.yaml_source import load_config
from tasks.runtimes.isolate import Workers


def command(parsed: Namespace, options: Options) -> int:
    """Make the pages from the record, the reports and the samples that the store holds; nothing is run again."""
    config = load_config(options.file)
    (name,) = parsed.names
    pipeline = chosen(config, [name], options)[name]
    store = open_store(options, config)
    pull_newest(store, name, NEWEST)
    record = _found(store.root, name, parsed.run)
    try:
        page, index, problems = _make(store, record, pipeline, options)
    except ConfigError as error:
        raise placed(error, name, options) from error
    except ArtifactDamaged as damage:
        raise TrtflowError(damage.message, f"have it made again: trtflow run {name} --verify") from damage
    for problem in problems:
        tell(f"{name}: note: {problem}")
    told = {"pipeline": name, "run": record.outcome.run, "report": str(page), "index": str(index)}
    print(json.dumps(told) if options.json else f"report: {page}\nall runs: {index}")
    return 0


def _make(store: Store, record: RunRecord, pipeline: PipelineConfig, options: Options) -> tuple[Path, Path, list[str]]:
    name, journal = record.outcome.pipeline, Journal()
    with Workers() as workers, Progress(name, quiet=options.json) as progress:
        journal.changed = progress.changed
        context = Context(name, pipeline, store, workers, journal)
        with store.in_use(name), ThreadSubmit(journal) as submit:
            problems = draw_charts(context, submit, evidence(store.root, record))
            drawn = tuple(entry for entry in journal.timeline(0.0) if entry.artifact)
            page = write_run_page(context, record, drawn)
            return page, write_index_page(context), problems


def _found(root: Path, name: str, wanted: str | None) -> RunRecord:
    """The run that was asked for; raise ConfigError where there is none, or more than one."""
    folders = run_folders(root, name)
    if not folders:
        raise TrtflowError(f"{name} was never run into the store at {root}", f"run it: trtflow run {name}")
    fits = [folder for folder in folders if wanted is None or folder.name.startswith(wanted)]
    if not fits:
        newest = ", ".join(folder.name for folder in folders[:3])
        raise ConfigError(f"{name} has no run {wanted!r}", f"its newest are: {newest}")
    if wanted is not None and len(fits) > 1:
        raise ConfigError(f"{len(fits)} runs of {name} begin with {wanted!r}", "give more of the id")
    record = read_record(fits[0])
    if record is None:
        raise TrtflowError(
            f"{fits[0] / 'run.json'} is not a record that this version can read", f"run it again: trtflow run {name}"
        )
    return record
