"""Step `build`: compile one typed graph by one runtime into an engine with its identity card."""

from pathlib import Path

from pydantic import JsonValue

from tasks.context import Context, Files, Work, params
from tasks.core.environment import cpu_host, gpu_host
from tasks.core.locks import Mode
from tasks.core.report import Artifact
from tasks.core.sets import GOLDEN
from tasks.core.signature import Signature
from tasks.core.store import Made
from tasks.core.verified import known
from tasks.homes import engine_home
from tasks.runtimes.base import CARD, ENGINE, BuildRequest, read_card
from tasks.runtimes.engines import build_engine
from tasks.runtimes.load import distributions
from tasks.step import StepOptions, step
from tasks.target import Target

OPTIONS = StepOptions("build", version=2)


@step(OPTIONS)
def build(context: Context, target: Target, signature: Signature, data: Artifact, typed: Artifact) -> Artifact:
    """Make model.engine and card.json."""
    engine, precision = target.engine, target.precision
    options: dict[str, JsonValue] = engine.chosen()
    host = gpu_host() if engine.device == "cuda" else cpu_host()
    recipe = context.recipe(OPTIONS, target.id, tools=distributions(engine.runtime))
    recipe = recipe.model_copy(
        update={
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
            links=True,
        )
        made = context.call(engine_home(engine.runtime), build_engine, request, folder)
        context.link(typed, made.unchanged, folder)
        if (folder / CARD).exists():
            known(folder / ENGINE, read_card(folder / CARD).engine_sha256)
        return Made(params(made))

    on_gpu: Mode | None = "exclusive" if engine.device == "cuda" and host else None
    return context.produce(Work(recipe, make, gpu=on_gpu))
