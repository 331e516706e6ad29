"""Step `layers`: what an engine's layers are made of, and what each takes."""

from pathlib import Path
from typing import TypeAlias

from tasks.context import Context, Files, Work, params
from tasks.core.environment import gpu_host
from tasks.core.report import Artifact
from tasks.core.sets import GOLDEN
from tasks.core.signature import Signature
from tasks.core.store import Made
from tasks.engine_run import check_runs, home_of
from tasks.runtimes.base import CARD, ENGINE
from tasks.runtimes.layer_times import LayersRequest, time_layers
from tasks.runtimes.load import distributions
from tasks.step import StepOptions, step
from tasks.target import Target

OPTIONS = StepOptions("layers", version=1)
# The typed graph, and the engine that was built from it.
Pair: TypeAlias = tuple[Artifact, Artifact]


@step(OPTIONS)
def layers(context: Context, target: Target, signature: Signature, data: Artifact, pair: Pair) -> Artifact:
    """Make layers.json, with what the library itself told beside it; nothing of ours is on the GPU then."""
    typed, built = pair
    check_runs(context, built)
    recipe = context.recipe(OPTIONS, target.id, tools=distributions(target.engine.runtime))
    recipe = recipe.model_copy(update={"host": gpu_host(), "params": {"signature": params(signature)}})
    recipe = context.using(
        recipe, engine=Files(built, (ENGINE, CARD)), golden=Files(data, (GOLDEN,)), typed=Files(typed)
    )

    def make(folder: Path) -> Made:
        request = LayersRequest(
            engine=context.file(built, ENGINE),
            card=context.file(built, CARD),
            feeds=context.file(data, GOLDEN),
            model=context.model_file(typed),
            signature=signature,
            folder=folder,
        )
        return Made(params(context.call(home_of(context, built), time_layers, request, folder)))

    return context.produce(Work(recipe, make, gpu="exclusive"))
