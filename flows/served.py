"""What a flow run of a deployment executes, in a process of its own that `trtflow up` forks.

Which YAML it is comes from `trtflow up`, which pipeline from the deployment's name: no caller of the API, and no event,
names a file with code in it.
"""

import json
import os
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import prefect
from prefect.context import FlowRunContext
from prefect.states import Failed

from flows.environment import CACHE, FILE, STORE
from flows.events import TEMPLATE, checked_sha256
from flows.journal import Journal
from flows.options import Options, chosen, open_store
from flows.prefect_flow import driven, runner_of_tasks
from flows.retrained import cache_of, fetched, record_of, with_checkpoint
from flows.roots import Roots, roots_of
from flows.run import Run, RunOptions, run_id
from flows.superseded import Verdict, ended, superseded_by
from tasks.core.config import Config, PipelineConfig
from tasks.core.errors import ConfigError, TrtflowError
from tasks.core.names import check_names
from tasks.core.yaml_source import load_config
from tasks.runtimes.isolate import Workers

if TYPE_CHECKING:
    from typing import Any

    from prefect.client.schemas.objects import FlowRun, State

_SHORT = 6


@dataclass(frozen=True)
class Retrained:
    """The checkpoint that a run was asked to use; `occurred` where an event asked."""

    checkpoint: str
    sha256: str | None
    occurred: datetime | None
    metadata: dict[str, str]


def flow_run_name() -> str:
    """The pipeline, the end of the flow run's id, and why it runs."""
    found = _flow_run()
    return f"{pipeline_name()} · {str(found.id)[-_SHORT:]} · {_reason(found)}"


def _reason(found: "FlowRun") -> str:
    if found.parameters.get("occurred"):
        return "retrained"
    return "scheduled" if found.auto_scheduled else "manual"


@prefect.flow(
    name="convert", flow_run_name=flow_run_name, task_runner=runner_of_tasks(), persist_result=False, log_prints=False
)
def flow(  # noqa: PLR0913 - the form of the UI, where each is a field
    *,
    checkpoint: str | None = None,
    sha256: str | None = None,
    metadata: dict[str, object] | None = None,
    occurred: datetime | None = None,
    event: str | None = None,
    precisions: list[str] | None = None,
    verify: bool = False,
    rebenchmark: bool = False,
) -> "State[Any]":
    """Convert, verify, benchmark and promote one pipeline, as its YAML says now."""
    del event  # kept with the run's parameters, where the rule for several events finds it
    try:
        asked = _asked(checkpoint, sha256, occurred, metadata or {})
        if asked and (verdict := superseded_by(_flow_run().id)):
            return ended(verdict)
        options, config = loaded()
        (pipeline,) = chosen(config, [pipeline_name()], options).values()
        again = frozenset({"benchmark"} if rebenchmark else ())
        run = _run(_narrowed(pipeline, precisions), config, options, (verify, again))
        with run.store.in_use(run.pipeline):  # or `gc` could take a checkpoint that no run has used so far
            if asked and (verdict := _take(asked, run, roots_of(config, run.pipeline, options.project))):
                return ended(verdict)
            with Workers() as workers:
                return driven(run, workers)
    except TrtflowError as error:
        return Failed(message=str(error))


def pipeline_name() -> str:
    """The pipeline that this process was forked for."""
    return os.environ["PREFECT__DEPLOYMENT_NAME"]


def _flow_run() -> "FlowRun":
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise TrtflowError("this flow runs as a flow run of a deployment only", "start it in the UI, or: trtflow run")
    return context.flow_run


def _asked(
    checkpoint: str | None, sha256: str | None, occurred: datetime | None, metadata: dict[str, object]
) -> Retrained | None:
    """What was asked for, checked; an event that names no checkpoint does not mean the configured one."""
    if checkpoint is None and sha256 is None and occurred is None:
        if metadata:
            raise ConfigError("metadata is kept beside a checkpoint, and none is given", "give `checkpoint` too")
        return None
    if not checkpoint:
        raise ConfigError("the event names no checkpoint", 'send payload: {"checkpoint": "/path/or/URL"}')
    if "" in metadata:  # as the trigger hands on what it cannot
        raise ConfigError(
            "the event's metadata is no JSON object that can be kept", f"send names and values, none {TEMPLATE}"
        )
    # What a sender by plain HTTP may have written as numbers is kept as text.
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in metadata.items()}
    return Retrained(checkpoint, None if sha256 is None else checked_sha256(sha256), occurred, texts)


def _take(asked: Retrained, run: Run, roots: Roots) -> Verdict | None:
    """Have the run use the checkpoint, whatever becomes of the file from now on; a Verdict says why it need not."""
    given = fetched(asked.checkpoint, asked.sha256, roots, cache_of(run.store, run.pipeline))
    verdict = superseded_by(_flow_run().id, given.sha256)
    run.config = with_checkpoint(run.config, given)
    run.checkpoint = record_of(given, asked.metadata, asked.occurred)
    return verdict


def loaded() -> tuple[Options, Config]:
    """The YAML as it is now, and what else `trtflow up` was given."""
    file = Path(os.environ[FILE])
    options = Options(file, os.environ.get(STORE), json=False, debug=False, cache=os.environ.get(CACHE))
    config = load_config(file)
    check_names(config, file)
    return options, config


def _narrowed(pipeline: PipelineConfig, names: list[str] | None) -> PipelineConfig:
    """The pipeline with only the precisions that were asked for, and the engines that are left with one."""
    if names is None:
        return pipeline
    if pipeline.precisions is None:
        raise ConfigError("this pipeline names no precisions to choose from", "write `precisions` in the YAML")
    known = [precision.name for precision in pipeline.precisions]
    if not names or any(name not in known for name in names):
        raise ConfigError(f"found precisions {names}, expected some of {', '.join(known)}", "correct the names")
    kept = tuple(precision for precision in pipeline.precisions if precision.name in names)
    engines = pipeline.engines and tuple(
        engine.model_copy(update={"precisions": tuple(wanted)})
        for engine in pipeline.engines
        if (wanted := [name for name in engine.precisions or known if name in names])
    )
    if engines == ():
        raise ConfigError(f"no engine takes precisions {names}", "choose others")
    return pipeline.model_copy(update={"precisions": kept, "engines": engines})


def _run(pipeline: PipelineConfig, config: Config, options: Options, how: tuple[bool, frozenset[str]]) -> Run:
    verify, again = how
    store = open_store(options, config, signs=True)
    settings = replace(RunOptions.of(store, config), verify_all=verify, again=again)
    return Run(pipeline_name(), pipeline, settings, Journal(), id=run_id(str(_flow_run().id)[-_SHORT:]))
