"""`trtflow run`."""

import os
import sys
from argparse import Namespace
from pathlib import Path

from flows.journal import Journal
from flows.options import Options, chosen, store_root
from flows.run import Run, RunInterrupted, RunOptions, run_pipeline
from flows.terminal import Progress, print_outcome
from tasks.core.config import OnnxModel, PipelineConfig
from tasks.core.errors import ConfigError
from tasks.core.names import check_names
from tasks.core.outcome import RunOutcome, RunsOutcome, exit_code
from tasks.core.yaml_source import load_config


def command(parsed: Namespace, options: Options) -> int:
    """Run the named pipelines one after the other; one that fails does not keep the others from running."""
    config = load_config(options.file)
    check_names(config, options.file)
    pipelines = chosen(config, parsed.names)
    if parsed.checkpoint:
        pipelines = _with_checkpoint(pipelines, parsed.checkpoint)
    settings = RunOptions(store_root(options, config), options.project, parsed.timeout, parsed.verify)
    outcomes: list[RunOutcome] = []
    try:
        for name, pipeline in pipelines.items():
            outcomes.append(_run_one(name, pipeline, settings, parsed, options))
    except RunInterrupted as stopped:
        outcomes.append(stopped.outcome)
        _print_json(outcomes, options)
        raise
    _print_json(outcomes, options)
    return exit_code(tuple(outcomes))


def _run_one(
    name: str, pipeline: PipelineConfig, settings: RunOptions, parsed: Namespace, options: Options
) -> RunOutcome:
    with Progress(name, quiet=options.json) as progress:
        run = Run(name, pipeline, settings, Journal(progress.changed))
        if parsed.prefect or os.environ.get("PREFECT_API_URL"):
            from flows.prefect_settings import keep_quiet

            keep_quiet()
            from flows.prefect_flow import run_with_prefect

            outcome = run_with_prefect(run)
        else:
            outcome = run_pipeline(run)
    for note in run.notes:
        print(note, file=sys.stderr)
    if not options.json:
        print_outcome(outcome, run)
    return outcome


def _print_json(outcomes: list[RunOutcome], options: Options) -> None:
    if options.json:
        print(RunsOutcome(runs=tuple(outcomes)).model_dump_json())


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
