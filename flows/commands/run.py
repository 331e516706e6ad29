"""`trtflow run`."""

import os
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

from flows.given import load_given
from flows.journal import Journal
from flows.options import Options, chosen, open_store, placed
from flows.run import Run, RunOptions, run_pipeline
from flows.terminal import Progress, print_outcome, tell
from tasks.core.config import OnnxModel, PipelineConfig
from tasks.core.errors import ConfigError
from tasks.core.locks import host_folder
from tasks.core.names import check_names
from tasks.core.outcome import RunOutcome, RunsOutcome, exit_code
from tasks.runtimes.isolate import Workers


def command(parsed: Namespace, options: Options) -> int:
    """Run the named pipelines one after the other; one that fails does not keep the others from running."""
    config, names = load_given(parsed.names, options)
    if options.file.exists():  # else there is nothing but ONNX files, which were looked for already
        check_names(config, options.file)
    pipelines = chosen(config, names, options)
    if parsed.checkpoint:
        pipelines = _with_checkpoint(pipelines, parsed.checkpoint)
    again = frozenset({"benchmark"} if parsed.rebenchmark else ())
    host_folder()  # raises where the locks of this host are said to be in no folder
    store = open_store(options, config, signs=True)
    settings = RunOptions(
        store.root,
        options.project,
        parsed.verify,
        again,
        parsed.resume,
        store.shared,
        store.authority,
        config.interpreters,
    )
    runs: list[Run] = []
    try:
        with Workers(parsed.timeout) as workers:  # for all pipelines: what one has imported, the next one finds
            for name, pipeline in pipelines.items():
                runs.append(Run(name, pipeline, settings, Journal()))
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
        outcome = _runner(parsed)(run, workers)
    if not options.json:
        print_outcome(outcome, run.folder, run.report)
    for note in run.notes:
        tell(f"{run.pipeline}: note: {note}")
    told = not options.json and any(engine.reason == run.failure for engine in outcome.engines)
    if run.failure and not told:
        tell(f"{run.pipeline}: {run.failure}")


def _runner(parsed: Namespace) -> Callable[[Run, Workers], RunOutcome]:
    if not (parsed.prefect or os.environ.get("PREFECT_API_URL")):
        return run_pipeline
    from flows.prefect_settings import keep_quiet

    keep_quiet()
    from flows.prefect_flow import run_with_prefect

    return run_with_prefect


def _print_json(runs: list[Run], options: Options) -> None:
    if options.json:
        print(RunsOutcome(runs=tuple(run.outcome for run in runs if run.outcome)).model_dump_json())


def _with_checkpoint(pipelines: dict[str, PipelineConfig], checkpoint: str) -> dict[str, PipelineConfig]:
    if len(pipelines) != 1:
        raise ConfigError("--checkpoint is for one pipeline", "name the pipeline: trtflow run NAME --checkpoint PATH")
    if "://" in checkpoint:
        raise ConfigError(f"a checkpoint at {checkpoint!r} is known, not yet supported", "give the path of a file")
    path = str(Path(checkpoint).absolute())
    if not Path(path).is_file():
        raise ConfigError(f"there is no checkpoint {checkpoint!r}", "give the path of a file")
    ((name, pipeline),) = pipelines.items()
    change = {"onnx": path} if isinstance(pipeline.model, OnnxModel) else {"checkpoint": path}
    return {name: pipeline.model_copy(update={"model": pipeline.model.model_copy(update=change)})}
