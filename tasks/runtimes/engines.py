"""What a worker process does with an engine: build it, run it on batches, or keep it open and time it in turns."""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

from tasks.core.errors import StepError
from tasks.core.frozen import Frozen
from tasks.core.tensors import Tensors, load_batches, save_batches
from tasks.runtimes.base import (
    BuildMetrics,
    BuildRequest,
    Capabilities,
    MemoryUse,
    OpenOptions,
    Runtime,
    Samples,
    Session,
    read_card,
)
from tasks.runtimes.engine_range import run_range
from tasks.runtimes.gpu_session import GpuSession
from tasks.runtimes.gpu_timing import GpuFigures, gpu_figures
from tasks.runtimes.load import load_runtime, runtime_name

Measured: TypeAlias = Mapping[str, Samples | GpuFigures | None]


class ProbeRequest(Frozen):
    """Ask what a runtime, as `module` where that is given, can do on this host."""

    runtime: str
    module: str = ""


class RunRequest(Frozen):
    """Run every batch of the file `feeds`, and write what comes out, in the same order, as `outputs`."""

    engine: Path
    card: Path
    feeds: Path
    outputs: Path
    options: OpenOptions = OpenOptions()


class RunReply(Frozen):
    """How many batches were run, and what opening and the first of them took."""

    batches: int
    load_seconds: float
    first_inference_seconds: float


class TimeOpening(Frozen):
    """Open an engine to time it; batch i of the file `feeds` is what point i of the benchmark runs."""

    engine: Path
    card: Path
    feeds: Path
    options: OpenOptions = OpenOptions()


class TimeTurn(Frozen):
    """Time point `point` for `seconds`, at least once; a turn whose samples are thrown away is a warm-up.

    `streams` asks for figures of the GPU in place of samples, with so many streams at once; for `seconds` each.
    """

    point: int
    seconds: float
    streams: tuple[int, ...] | None = None


class TimeReply(Frozen):
    """What a turn measured: the reply to the opening has no samples. `memory` is what the session holds by now.

    `on_gpu` says that turns may ask for figures of the GPU. `refused` is why the point's feeds were not taken.
    """

    load_seconds: float
    first_inference_seconds: float
    memory: MemoryUse
    samples: Samples = Samples(nanoseconds=())
    on_gpu: bool = False
    gpu: GpuFigures | None = None
    refused: str = ""


def probe(request: ProbeRequest) -> Capabilities:
    """Say what a runtime can do on this host."""
    return load_runtime(runtime_name(request.runtime), request.module).probe()


def build_engine(request: BuildRequest) -> BuildMetrics:
    """Compile a typed graph into an engine and its card, and run it over the declared range where it runs here."""
    runtime = _available(request.runtime, request.module)
    made = runtime.build(request, request.folder)
    if not request.range or made.not_run or runtime.probe().not_run:
        return made
    return made.model_copy(update={"range": run_range(runtime, request, made.unchanged)})


def run_engine(request: RunRequest) -> RunReply:
    """Run an engine on every batch of a file."""
    batches = _batches(request.feeds)
    opened = open_engine(request.engine, request.card, request.options)
    with opened.session as session:
        first, first_inference_seconds = _first(session, batches[0])
        outputs = [first, *(session.infer(feeds) for feeds in batches[1:])]
    save_batches(request.outputs, outputs)
    return RunReply(batches=len(outputs), load_seconds=opened.seconds, first_inference_seconds=first_inference_seconds)


def time_engine(opening: TimeOpening) -> Generator[TimeReply, TimeTurn, None]:
    """Keep an engine open and time one point a turn, until the conversation is left."""
    points = _batches(opening.feeds)
    opened = open_engine(opening.engine, opening.card, opening.options)
    with opened.session as session:
        reply = TimeReply(
            load_seconds=opened.seconds,
            first_inference_seconds=first_seconds(session.infer, points),
            memory=session.memory(),
            on_gpu=isinstance(session, GpuSession),
        )
        while True:
            turn = yield reply
            if not 0 <= turn.point < len(points):
                raise StepError(f"there is no point {turn.point}: {opening.feeds} holds {len(points)}")
            if turn.streams is not None and not isinstance(session, GpuSession):
                cure = "ask for figures of the GPU only where the opening says `on_gpu`"
                raise StepError("this session is on no GPU", cure)
            reply = taken(reply, partial(_measured, session, points[turn.point], turn), session.memory)


def first_seconds(infer: Callable[[Tensors], object], points: Sequence[Tensors]) -> float:
    """How long the first inference takes, at the first point whose feeds are taken; raise where none is."""
    errors = []
    for feeds in points:
        begin = time.perf_counter()
        try:
            infer(feeds)
        except StepError as error:
            errors.append(error)
        else:
            return time.perf_counter() - begin
    raise errors[0]


def taken(reply: TimeReply, measure: Callable[[], Measured], memory: Callable[[], MemoryUse]) -> TimeReply:
    """The reply to a turn; feeds that are refused at its point are a fact about the point."""
    try:
        update = {**measure(), "refused": ""}
    except StepError as error:
        update = {"samples": Samples(nanoseconds=()), "gpu": None, "refused": error.message}
    return reply.model_copy(update={**update, "memory": memory()})


def _measured(session: Session, feeds: Tensors, turn: TimeTurn) -> Measured:
    if turn.streams is None or not isinstance(session, GpuSession):
        return {"samples": session.time(feeds, turn.seconds), "gpu": None}
    return {"samples": Samples(nanoseconds=()), "gpu": gpu_figures(session, feeds, turn.seconds, turn.streams)}


class Opened(NamedTuple):
    """An open engine, and what opening it took."""

    session: Session
    seconds: float


def open_engine(engine: Path, card: Path, options: OpenOptions) -> Opened:
    """Open an engine by its card."""
    identity = read_card(card)
    runtime = _available(identity.runtime, options.module)
    begin = time.perf_counter()
    session = runtime.open(engine, identity, options)
    return Opened(session, time.perf_counter() - begin)


def _available(name: str, module: str) -> Runtime:
    """Load a runtime that works here. Its library is imported by that: the time to open an engine does not hold it."""
    runtime = load_runtime(runtime_name(name), module)
    found = runtime.probe()
    if not found.available:
        raise StepError(f"{name} is not available here: {found.reason}", found.cure)
    return runtime


def _first(session: Session, feeds: Tensors) -> tuple[Tensors, float]:
    begin = time.perf_counter()
    outputs = session.infer(feeds)
    return outputs, time.perf_counter() - begin


def _batches(path: Path) -> list[Tensors]:
    batches = load_batches(path)
    if not batches:
        raise StepError(f"{path} holds no batch", "an engine needs inputs to run on")
    return batches
