"""Run a built engine over a file of batches, in a worker."""

from pathlib import Path

from tasks.context import Context
from tasks.core.errors import CannotRun
from tasks.core.locks import Mode
from tasks.core.report import Artifact
from tasks.homes import engine_home
from tasks.runtimes.base import CARD, ENGINE, BuildMetrics, OpenOptions
from tasks.runtimes.engines import RunReply, RunRequest, run_engine
from tasks.runtimes.interpreters import Interpreter
from tasks.runtimes.isolate import Home
from tasks.runtimes.load import runtime_name
from tasks.target import Target

OUTPUTS = "outputs.safetensors"


def check_runs(context: Context, built: Artifact) -> None:
    """Raise CannotRun where the build found that its runtime has no kernels for the graph here."""
    reason = context.metrics(built, BuildMetrics).not_run
    if reason:
        raise CannotRun(reason)


def run_built(context: Context, built: Artifact, feeds: Path, folder: Path, run_on: str = "") -> RunReply:
    """Write outputs.safetensors into `folder`; the request stays there as the repro. `run_on`: by that interpreter."""
    place = opener(context, built, run_on)
    request = RunRequest(
        engine=context.file(built, ENGINE),
        card=context.file(built, CARD),
        feeds=feeds,
        outputs=folder / OUTPUTS,
        options=OpenOptions(timed=False, module=place.module),
    )
    return context.call(engine_home(place), run_engine, request, folder)


def gpu_of(context: Context, built: Artifact) -> Mode | None:
    """How running a built engine holds the GPU: beside others, or not at all."""
    return "shared" if "gpu" in context.store.report(built).recipe.host else None


def home_of(context: Context, built: Artifact, run_on: str = "") -> Home:
    """Where a built engine runs."""
    return engine_home(opener(context, built, run_on))


def opener(context: Context, built: Artifact, run_on: str = "") -> Interpreter:
    """What opens an engine: the interpreter of that name, else one with the versions that it was built with.

    By the versions, and not by a name: an engine that is in force may be of a YAML that called its interpreters by
    other names. Where none has them, it is trtflow's own that says what it makes of the engine's card.
    """
    recipe = context.store.report(built).recipe
    runtime = runtime_name(str(recipe.params["runtime"]))
    if run_on:
        return context.interpreter(runtime, run_on)
    places = (context.interpreter(runtime, name) for name in (None, *context.interpreters))
    return next((place for place in places if place.versions() == recipe.tools), context.interpreter(runtime, None))


def opened_by(context: Context, target: Target) -> dict[str, str]:
    """What the outputs of an engine depend on where another interpreter than its builder's opens it."""
    if not target.run_on:
        return {}
    place = context.interpreter(target.engine.runtime, target.run_on)
    return {"module": place.module, **place.versions()}
