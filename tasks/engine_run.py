"""Run a built engine over a file of batches, in a worker."""

from pathlib import Path

from tasks.context import Context
from tasks.core.errors import CannotRun
from tasks.core.locks import Mode
from tasks.core.report import Artifact
from tasks.homes import engine_home
from tasks.runtimes.base import CARD, ENGINE, BuildMetrics, OpenOptions
from tasks.runtimes.engines import RunReply, RunRequest, run_engine
from tasks.runtimes.isolate import Home
from tasks.runtimes.load import runtime_name

OUTPUTS = "outputs.safetensors"


def check_runs(context: Context, built: Artifact) -> None:
    """Raise CannotRun where the build found that its runtime has no kernels for the graph here."""
    reason = context.metrics(built, BuildMetrics).not_run
    if reason:
        raise CannotRun(reason)


def run_built(context: Context, built: Artifact, feeds: Path, folder: Path) -> RunReply:
    """Write outputs.safetensors into `folder`; the request stays there as the repro."""
    request = RunRequest(
        engine=context.file(built, ENGINE),
        card=context.file(built, CARD),
        feeds=feeds,
        outputs=folder / OUTPUTS,
        options=OpenOptions(timed=False),
    )
    return context.call(home_of(context, built), run_engine, request, folder)


def gpu_of(context: Context, built: Artifact) -> Mode | None:
    """How running a built engine holds the GPU: beside others, or not at all."""
    return "shared" if "gpu" in context.store.report(built).recipe.host else None


def home_of(context: Context, built: Artifact) -> Home:
    """Where a built engine runs."""
    return engine_home(runtime_name(str(context.store.report(built).recipe.params["runtime"])))
