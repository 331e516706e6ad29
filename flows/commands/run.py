"""`trtflow run`."""

import contextlib
import os
import sys
from argparse import Namespace
from collections.abc import Collection
from dataclasses import replace

from flows.ahead import begun_ahead
from flows.given import load_given
from flows.journal import Journal
from flows.options import Options, chosen, open_store, placed
from flows.retrained import cache_of, check_checkpoint, fetched, record_of, with_checkpoint
from flows.run import Run, RunOptions, run_pipeline
from flows.terminal import Progress, print_outcome, tell
from tasks.core.errors import ConfigError
from tasks.core.locks import host_folder
from tasks.core.names import check_names
from tasks.core.outcome import RunOutcome, RunsOutcome, exit_code
from tasks.core.store import Store
from tasks.runtimes.isolate import Workers


def command(parsed: Namespace, options: Options) -> int:
    """Run the named pipelines one after the other; one that fails does not keep the others from running."""
    config, names = load_given(parsed.names, options)
    if options.file.exists():  # else there is nothing but ONNX files, which were looked for already
        check_names(config, options.file)
    pipelines = chosen(config, names, options)
    given = _one(pipelines, parsed) if parsed.checkpoint is not None or parsed.sha256 is not None else None
    again = frozenset({"benchmark"} if parsed.rebenchmark else ())
    host_folder()  # raises where the locks of this host are said to be in no folder
    store = open_store(options, config, signs=True)
    settings = replace(RunOptions.of(store, config), verify_all=parsed.verify, again=again, resume=parsed.resume)
    runs: list[Run] = []
    try:
        with contextlib.ExitStack() as held:
            # For all pipelines: what one has imported, the next one finds.
            workers = held.enter_context(Workers(parsed.timeout))
            for name, pipeline in pipelines.items():
                runs.append(Run(name, pipeline, settings, Journal()))
                if given is not None:
                    held.enter_context(store.in_use(given))  # or `gc` could take what no run has used so far
                    _give(runs[-1], store, parsed)
                try:
                    _run_one(runs[-1], workers, parsed, options)
                except ConfigError as error:
                    refused = placed(error, name, options)
                    if len(pipelines) == 1:
                        raise refused from error
                    print(f"trtflow: {refused}", file=sys.stderr)
    except KeyboardInterrupt:
        _print_json(runs, options)
        raise
    _print_json(runs, options)
    return exit_code(tuple(run.outcome for run in runs if run.outcome))


def _run_one(run: Run, workers: Workers, parsed: Namespace, options: Options) -> None:
    """Run and show one pipeline."""
    with Progress(run.pipeline, quiet=options.json) as progress:
        run.journal.changed = progress.changed
        outcome = _run(parsed, run, workers)
    if not options.json:
        print_outcome(outcome, run.folder, run.report)
    for note in run.notes:
        tell(f"{run.pipeline}: note: {note}")
    told = not options.json and any(engine.reason == run.failure for engine in outcome.engines)
    if run.failure and not told:
        tell(f"{run.pipeline}: {run.failure}")


def _give(run: Run, store: Store, parsed: Namespace) -> None:
    """Have a run use the checkpoint of the command line, which may lie anywhere."""
    checkpoint = fetched(parsed.checkpoint, parsed.sha256, None, cache_of(store, run.pipeline))
    run.config, run.checkpoint = with_checkpoint(run.config, checkpoint), record_of(checkpoint)


def _run(parsed: Namespace, run: Run, workers: Workers) -> RunOutcome:
    if not (parsed.prefect or os.environ.get("PREFECT_API_URL")):
        return run_pipeline(run, workers)
    with begun_ahead(run, workers):
        from flows.prefect_settings import keep_quiet

        keep_quiet()
        from flows.prefect_flow import run_with_prefect

        return run_with_prefect(run, workers)


def _print_json(runs: list[Run], options: Options) -> None:
    if options.json:
        print(RunsOutcome(runs=tuple(run.outcome for run in runs if run.outcome)).model_dump_json())


def _one(names: Collection[str], parsed: Namespace) -> str:
    """The pipeline that the checkpoint is for, once that can be read; nothing is made before."""
    if parsed.checkpoint is None:
        raise ConfigError("--sha256 is for a checkpoint", "name it: trtflow run NAME --checkpoint PATH --sha256 DIGEST")
    if len(names) != 1:
        raise ConfigError("--checkpoint is for one pipeline", "name the pipeline: trtflow run NAME --checkpoint PATH")
    check_checkpoint(parsed.checkpoint, None)
    return next(iter(names))
