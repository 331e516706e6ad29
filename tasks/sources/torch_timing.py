"""Keep the user's torch module open and time it in turns with the engines: the baseline (in a worker)."""

import time
from collections.abc import Generator
from functools import partial
from pathlib import Path
from typing import cast

from tasks.core.frozen import Frozen
from tasks.core.tensors import Tensors, load_batches
from tasks.core.user_code import call_user
from tasks.runtimes.base import Samples
from tasks.runtimes.engines import Measured, TimeReply, TimeTurn, first_seconds, taken
from tasks.runtimes.torch_eager import TorchEagerSession
from tasks.sources.torch_module import TorchSource, load_module, takes_names

_MODULE = "the module"


class TorchTimeOpening(Frozen):
    """The module to time; batch i of the file `feeds` is what point i of the benchmark runs."""

    source: TorchSource
    outputs: tuple[str, ...]
    feeds: Path


def time_torch(opening: TorchTimeOpening) -> Generator[TimeReply, TimeTurn, None]:
    """Time one point a turn, until the conversation is left."""
    started = time.perf_counter()
    module = load_module(opening.source)
    loaded = time.perf_counter()
    points = load_batches(opening.feeds)
    inputs = opening.source.inputs
    with TorchEagerSession(module, inputs, opening.outputs, by_name=takes_names(module, inputs)) as session:
        reply = TimeReply(
            load_seconds=loaded - started,
            first_inference_seconds=first_seconds(partial(call_user, _MODULE, session.infer), points),
            memory=session.memory(),
        )
        while True:
            turn = yield reply
            reply = taken(reply, partial(_samples, session, points[turn.point], turn.seconds), session.memory)


def _samples(session: TorchEagerSession, feeds: Tensors, seconds: float) -> Measured:
    return {"samples": cast("Samples", call_user(_MODULE, session.time, feeds, seconds))}
