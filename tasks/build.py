"""Step `build`: compile one typed graph by one runtime into an engine with its identity card."""

from pathlib import Path

from pydantic import JsonValue

from tasks.context import Context, Files, Work, params
from tasks.core.environment import cpu_host, gpu_host
from tasks.core.errors import StepError
from tasks.core.locks import Mode
from tasks.core.report import Artifact
from tasks.core.sets import GOLDEN
from tasks.core.signature import Signature
from tasks.core.store import Made
from tasks.homes import engine_home
from tasks.runtimes.base import BuildRequest
from tasks.runtimes.engines import build_engine
from tasks.runtimes.install import install_line
from tasks.runtimes.interpreters import Interpreter
from tasks.step import StepOptions, step
from tasks.target import Target

OPTIONS = StepOptions("build", version=1)


@step(OPTIONS)
def build(context: Context, target: Target, signature: Signature, data: Artifact, typed: Artifact) -> Artifact:
    """Make model.engine and card.json."""
    engine, precision = target.engine, target.precision
    options: dict[str, JsonValue] = engine.chosen()
    host = gpu_host() if engine.device == "cuda" else cpu_host()
    place = context.interpreter(engine.runtime, engine.interpreter)
    recipe = context.recipe(OPTIONS, target.id)
    recipe = recipe.model_copy(
        update={
            "tools": _versions(place),
            "host": host,
            "params": {
                "runtime": engine.runtime,
                "precision": precision.kind,
                "options": options,
                "signature": params(signature),
            },
        }
    )
    recipe = context.using(recipe, typed=Files(typed), golden=Files(data, (GOLDEN,)))

    def make(folder: Path) -> Made:
        request = BuildRequest(
            runtime=engine.runtime,
            model=context.model_file(typed),
            precision=precision.kind,
            signature=signature,
            golden=context.file(data, GOLDEN),
            host=host,
            options=options,
            folder=folder,
            module=place.module if place.name else "",
        )
        return Made(params(context.call(engine_home(place), build_engine, request, folder)))

    on_gpu: Mode | None = "exclusive" if engine.device == "cuda" and host else None
    return context.produce(Work(recipe, make, gpu=on_gpu))


def _versions(place: Interpreter) -> dict[str, str]:
    """The versions that are part of the key; another Python that has none would make engines of an unknown version."""
    found = place.versions()
    if place.name and not found:
        raise StepError(
            f"the interpreter {place.name!r} ({place.python}) has no {place.module} installed",
            install_line(place.module, place.python),
        )
    return found
