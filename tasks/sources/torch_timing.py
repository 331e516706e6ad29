"""Keep the user's torch module open and time it in turns with the engines: the baseline (in a worker)."""

import time
from collections.abc import Generator
from pathlib import Path

from tasks.core.frozen import Frozen
from tasks.core.tensors import load_batches
from tasks.runtimes.engines import TimeReply, TimeTurn
from tasks.runtimes.torch_eager import TorchEagerSession
from tasks.sources.torch_module import TorchSource, load_module, takes_names


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
        before = time.perf_counter()
        session.infer(points[0])
        reply = TimeReply(
            load_seconds=loaded - started,
            first_inference_seconds=time.perf_counter() - before,
            memory=session.memory(),
        )
        while True:
            turn = yield reply
            samples = session.time(points[turn.point], turn.seconds)
            reply = reply.model_copy(update={"samples": samples, "memory": session.memory()})
