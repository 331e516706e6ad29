"""Step `build`: compile one typed graph by one runtime into an engine with its identity card."""

from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from pydantic import JsonValue

from tasks.context import Context, Files, Work, params
from tasks.core.config import EngineOptions
from tasks.core.environment import cpu_host, gpu_host
from tasks.core.errors import StepError
from tasks.core.locks import Mode
from tasks.core.report import Artifact
from tasks.core.sets import CALIBRATION, GOLDEN, RANGE
from tasks.core.signature import Signature
from tasks.core.store import Made
from tasks.core.verified import known
from tasks.earlier import earlier_builds, exported_of
from tasks.homes import engine_home
from tasks.runtimes.base import CARD, ENGINE, BuildRequest, read_card
from tasks.runtimes.engines import build_engine
from tasks.runtimes.install import install_line
from tasks.runtimes.interpreters import Interpreter
from tasks.sources.source_range import read_range
from tasks.step import StepOptions, step
from tasks.target import Target

OPTIONS = StepOptions("build", version=4)
MODEL = "model.onnx"
# The step's data, the source's export (where the source ran) and the typed graph.
BuildInputs: TypeAlias = tuple[Artifact, Artifact, Artifact]


@step(OPTIONS)
def build(context: Context, target: Target, signature: Signature, inputs: BuildInputs) -> Artifact:
    """Make model.engine and card.json, and run the engine at the sizes at which the source ran."""
    data, exported, typed = inputs
    engine, precision = target.engine, target.precision
    options: dict[str, JsonValue] = engine.chosen()
    host = gpu_host() if engine.device == "cuda" else cpu_host()
    place = context.interpreter(engine.runtime, engine.interpreter)
    recipe = context.recipe(OPTIONS, target.id)
    recipe = recipe.model_copy(
        update={
            "tools": _versions(place),
            "host": host,
            "sources": _plugins(context, engine.options),
            "params": {
                "runtime": engine.runtime,
                "precision": precision.kind,
                "options": options,
                "signature": params(signature),
            },
        }
    )
    calibration = {"calibration": Files(data, (CALIBRATION,))} if precision.by_tensorrt else {}
    recipe = context.using(
        recipe,
        typed=Files(typed),
        golden=Files(data, (GOLDEN,)),
        range=Files(exported, (RANGE,)),
        **calibration,
    )

    def make(folder: Path) -> Made:
        origin = exported_of(context.store, typed)
        over_range = context.optional_file(exported, RANGE)
        request = BuildRequest(
            runtime=engine.runtime,
            model=context.model_file(typed),
            precision=precision.kind,
            signature=signature,
            golden=context.file(data, GOLDEN),
            host=host,
            options=_placed(context, options),
            folder=folder,
            module=place.module if place.name else "",
            links=True,
            calibration=context.file(data, CALIBRATION) if precision.by_tensorrt else None,
            exported=context.store.folder(origin) / MODEL if origin else None,
            timing_caches=context.store.timing,
            earlier=earlier_builds(context.store, recipe, refittable=engine.options.refittable),
            range=read_range(over_range) if over_range else (),
        )
        home = replace(engine_home(place), seconds=engine.options.timeout)
        made = context.call(home, build_engine, request, folder)
        context.link(typed, made.unchanged, folder)
        if (folder / CARD).exists():
            known(folder / ENGINE, read_card(folder / CARD).engine_sha256)
        return Made(params(made))

    on_gpu: Mode | None = "exclusive" if engine.device == "cuda" and host else None
    return context.produce(Work(recipe, make, gpu=on_gpu))


def _plugins(context: Context, options: EngineOptions) -> dict[str, str]:
    """Digests of the libraries whose operators go into the engine."""
    for plugin in options.plugins:
        if not (context.project / plugin).is_file():
            cure = "paths are relative to the pipelines.yaml: correct options.plugins, or build the library"
            raise StepError(f"the plugin {plugin} is missing in {context.project}", cure)
    return {plugin: context.store.sources.sha256(context.project / plugin) for plugin in options.plugins}


def _placed(context: Context, options: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Options with the paths at which a worker finds the plugins."""
    plugins = options.get("plugins")
    return (
        {**options, "plugins": [str(context.project / str(name)) for name in plugins]}
        if isinstance(plugins, list)
        else options
    )


def _versions(place: Interpreter) -> dict[str, str]:
    """The versions that are part of the key; another Python that has none would make engines of an unknown version."""
    found = place.versions()
    if place.name and not found:
        raise StepError(
            f"the interpreter {place.name!r} ({place.python}) has no {place.module} installed",
            install_line(place.module, place.python),
        )
    return found
