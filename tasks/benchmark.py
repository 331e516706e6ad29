"""Step `benchmark`: every engine that passed parity, and the baselines, timed in turns on an otherwise idle host."""

import contextlib
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from tasks.context import Context, Files, Work, params
from tasks.core.config import TorchModel
from tasks.core.environment import cpu_host, gpu_host
from tasks.core.errors import StepError, WorkerError
from tasks.core.frozen import Frozen
from tasks.core.report import Artifact, Recipe
from tasks.core.sets import GOLDEN
from tasks.core.signature import Signature
from tasks.core.store import Made
from tasks.engine_run import home_of, opener
from tasks.homes import ONNX, TORCH, engine_home, torch_installed
from tasks.runtimes.base import CARD, ENGINE, MemoryUse, OpenOptions
from tasks.runtimes.engines import TimeOpening, TimeReply, TimeTurn, time_engine
from tasks.runtimes.gpu_timing import GpuFigures
from tasks.runtimes.isolate import Conversation
from tasks.runtimes.timing import (
    Comparison,
    FiguresRequest,
    PointFigures,
    PointSamples,
    PointsReply,
    PointsRequest,
    TimedRounds,
    prepare_points,
    sum_up,
)
from tasks.sources.declared import declared_files, torch_source
from tasks.sources.onnx_graph import ExportMetrics
from tasks.sources.torch_timing import TorchTimeOpening, time_torch
from tasks.step import StepOptions, step

OPTIONS = StepOptions("benchmark", version=3)
# Each candidate's seconds are spread over so many turns, so that a drift of the host hits all alike.
ROUNDS = 20
# Share of the measured time that each candidate is warmed up for, first.
WARM_UP = 0.15
EAGER = "torch eager"
# Share of the measured time that each figure of a GPU gets beside the latency.
BESIDE = 0.1
_NO_POINT = "choose sizes in `benchmark.at` that the data can have"

Timed: TypeAlias = Conversation[TimeTurn, TimeReply]


class Contender(Frozen):
    """An engine to time: `engine` and `plain` say of a result which engine of the YAML it is for, and if it is fp32.

    Beside results: what the result `repaired` was made from, and the engine that is promoted now. `run_on`: it is
    opened by that interpreter, and not by the one that built it.
    """

    name: str
    built: Artifact
    engine: str = ""
    run_on: str = ""
    plain: bool = False
    repaired: str = ""
    promoted: bool = False


class Opening(Frozen):
    """What it took to open one candidate or baseline."""

    load_seconds: float
    first_inference_seconds: float
    memory: MemoryUse


class StreamThroughput(Frozen):
    """Samples a second, by so many streams at once."""

    streams: int
    throughput_per_s: float


class GpuPoint(Frozen):
    """What was measured of one candidate at one point on a GPU, beside its latency."""

    name: str
    at: dict[str, int]
    figures: GpuFigures
    throughput: tuple[StreamThroughput, ...]


class SkippedPoint(Frozen):
    """A point that was not measured: who refused its feeds, and why."""

    at: dict[str, int]
    name: str
    reason: str


class BenchmarkMetrics(Frozen):
    """Figures by candidate and point; the raw samples are in samples.npz.

    `promoted_missing` is why the engine that is promoted now, and was to be timed beside the others, did not open.
    """

    points: tuple[PointFigures, ...]
    openings: dict[str, Opening]
    baselines_missing: str | None
    promoted_missing: str | None = None
    gpu: tuple[GpuPoint, ...] = ()
    skipped: tuple[SkippedPoint, ...] = ()


@step(OPTIONS)
def benchmark(
    context: Context, signature: Signature, data: Artifact, exported: Artifact, contenders: Sequence[Contender]
) -> Artifact:
    """Time all contenders and baselines at every point of the YAML."""
    plan = _Plan(context, signature, tuple(contenders), _points(context, signature))
    recipe = context.using(
        plan.recipe(exported),
        golden=Files(data, (GOLDEN,)),
        **{contender.name: Files(contender.built, (ENGINE, CARD)) for contender in contenders},
    )
    found = context.metrics(exported, ExportMetrics)
    names = tuple(found.facts.outputs)

    def before() -> None:
        homes = {home_of(context, contender.built, contender.run_on) for contender in contenders}
        context.workers.end_imports(keep=(ONNX, TORCH, *homes))  # else the host would be waited for until they end

    def make(folder: Path) -> Made:
        feeds = folder / "feeds.safetensors"
        request = PointsRequest(
            golden=context.file(data, GOLDEN),
            signature=signature,
            points=plan.points,
            feeds=feeds,
            lowered=any(point.lowered for point in found.range.points),
        )
        prepared = context.workers.call(ONNX, prepare_points, request)
        with contextlib.ExitStack() as stack:
            timed = plan.open(stack, feeds, names)
            samples = plan.measure(timed, prepared)
            gpu = plan.on_gpu(timed, prepared)
            last = {name: talk.first for name, talk in timed.items()}
        figures = FiguresRequest(
            points=samples,
            comparisons=plan.comparisons(),
            rivals=plan.rivals(),
            samples=folder / "samples.npz",
        )
        metrics = BenchmarkMetrics(
            points=context.workers.call(ONNX, sum_up, figures).points,
            openings={name: _opening(reply) for name, reply in last.items()},
            baselines_missing=plan.missing_baseline(),
            promoted_missing=plan.promoted_missing,
            gpu=gpu,
            skipped=tuple(plan.skipped.values()),
        )
        return Made(params(metrics))

    return context.produce(Work(recipe, make, host="exclusive", before=before))


def _opening(reply: TimeReply) -> Opening:
    return Opening(
        load_seconds=reply.load_seconds,
        first_inference_seconds=reply.first_inference_seconds,
        memory=reply.memory,
    )


def _points(context: Context, signature: Signature) -> tuple[dict[str, int], ...]:
    """Sizes of all named dims at each point: what the YAML leaves out is at its opt."""
    opt = signature.sizes("opt")
    return tuple({**opt, **point} for point in context.config.benchmark.at or ({},))


class _Plan:
    """Who is timed, at which points, against what."""

    def __init__(
        self,
        context: Context,
        signature: Signature,
        contenders: tuple[Contender, ...],
        points: tuple[dict[str, int], ...],
    ) -> None:
        self.context = context
        self.signature = signature
        self.contenders = contenders
        self.points = points
        config = context.config
        self.eager = config.benchmark.baselines and isinstance(config.model, TorchModel) and torch_installed()
        self.gated = config.gates.latency_regression is not None
        self.promoted_missing: str | None = None
        self.skipped: dict[int, SkippedPoint] = {}

    def recipe(self, exported: Artifact) -> Recipe:
        """All that the figures depend on beside the engines: how long, where, and on which host."""
        tools = ("torch", "numpy") if self.eager else ("numpy",)
        recipe = self.context.recipe(OPTIONS, tools=tools)
        recipe = recipe.model_copy(update={"tools": recipe.tools | self.others()})
        config = self.context.config.benchmark
        return recipe.model_copy(
            update={
                "params": {
                    "points": [dict(point) for point in self.points],
                    "seconds": config.seconds,
                    "baselines": config.baselines,
                    "rounds": ROUNDS,
                    "source": exported.key if self.eager else None,
                    "rivals": self.gated,
                    **({"streams": list(config.streams)} if config.streams else {}),
                },
                "host": cpu_host() | gpu_host(),
                "sources": declared_files(self.context) if self.eager else {},
            }
        )

    def others(self) -> dict[str, str]:
        """Versions of the interpreters by which engines are opened that did not build them."""
        found: dict[str, str] = {}
        for contender in self.contenders:
            if contender.run_on:
                place = opener(self.context, contender.built, contender.run_on)
                versions = {"module": place.module, **place.versions()}
                found |= {f"{contender.run_on}: {name}": version for name, version in versions.items()}
        return found

    def open(self, stack: contextlib.ExitStack, feeds: Path, outputs: tuple[str, ...]) -> dict[str, Timed]:
        """One open worker for each contender and baseline, closed with the stack."""
        context = self.context
        timed: dict[str, Timed] = {}
        for contender in self.contenders:
            engine, card = (context.file(contender.built, name) for name in (ENGINE, CARD))
            place = opener(context, contender.built, contender.run_on)
            opening = TimeOpening(engine=engine, card=card, feeds=feeds, options=OpenOptions(module=place.module))
            try:
                timed[contender.name] = stack.enter_context(
                    context.workers.converse(engine_home(place), time_engine, opening)
                )
            except WorkerError:
                raise
            except StepError as error:
                if not contender.promoted:
                    raise
                # Made by another version of its runtime, say: a fact that the regression gate has to deal with.
                self.promoted_missing = error.message
        if self.eager:
            source = torch_source(context, self.signature)
            eager = TorchTimeOpening(source=source, outputs=outputs, feeds=feeds)
            timed[EAGER] = stack.enter_context(context.workers.converse(TORCH, time_torch, eager))
        return timed

    def measure(self, timed: dict[str, Timed], prepared: PointsReply) -> tuple[PointSamples, ...]:
        """Take turns, point after point; one whose feeds somebody refuses is skipped, unless all are."""
        seconds = self.context.config.benchmark.seconds
        found = []
        for index, point in enumerate(self.points):
            refused = _warm_up(timed, index, seconds)
            if refused:
                self.skipped[index] = SkippedPoint(at=point, name=refused[0], reason=refused[1])
                continue
            turns, count = _take_turns(timed, index, seconds), prepared.samples[index]
            found.append(PointSamples(at=point, samples_per_inference=count, timed=turns))
        if not found:
            first = self.skipped[0]
            raise StepError(f"no point could be measured: {first.name} refuses {first.at}: {first.reason}", _NO_POINT)
        return tuple(found)

    def on_gpu(self, timed: dict[str, Timed], prepared: PointsReply) -> tuple[GpuPoint, ...]:
        """The other figures of what runs on a GPU, one after the other: nothing compares them round by round."""
        config = self.context.config.benchmark
        found = []
        for index, point in enumerate(self.points):
            if index in self.skipped:
                continue
            turn = TimeTurn(point=index, seconds=BESIDE * config.seconds, streams=config.streams)
            for name, talk in timed.items():
                figures = _again(talk, turn, name).gpu if talk.first.on_gpu else None
                if figures is not None:
                    found.append(_gpu_point(name, point, figures, prepared.samples[index]))
        return tuple(found)

    def comparisons(self) -> tuple[Comparison, ...]:
        """Each contender against the source framework, and against fp32 on its own runtime."""
        plain = {contender.engine: contender.name for contender in self.contenders if contender.plain}
        found = []
        for contender in self.contenders:
            own = contender.name
            if contender.repaired:
                found.append(Comparison(candidate=contender.repaired, against=own))
                continue
            if self.eager:
                found.append(Comparison(candidate=own, against=EAGER))
            if plain.get(contender.engine, own) != own:
                found.append(Comparison(candidate=own, against=plain[contender.engine]))
        return tuple(found)

    def rivals(self) -> tuple[Comparison, ...]:
        """Every two that might take each other's place, where the regression gate asks how they compare."""
        if not self.gated:
            return ()
        names = [contender.name for contender in self.contenders if not contender.repaired]
        return tuple(Comparison(candidate=one, against=other) for one, other in itertools.permutations(names, 2))

    def missing_baseline(self) -> str | None:
        """Why the source framework was not timed, where it was not."""
        if self.eager:
            return None
        if not self.context.config.benchmark.baselines:
            return "switched off"
        is_torch = isinstance(self.context.config.model, TorchModel)
        return "torch is not installed here" if is_torch else "the source is an ONNX file"


def _gpu_point(name: str, at: dict[str, int], figures: GpuFigures, samples: int) -> GpuPoint:
    throughput = tuple(
        StreamThroughput(streams=found.streams, throughput_per_s=samples * found.inferences_per_s)
        for found in figures.streams
    )
    return GpuPoint(name=name, at=at, figures=figures, throughput=throughput)


def _warm_up(timed: dict[str, Timed], point: int, seconds: float) -> tuple[str, str] | None:
    """Run each for the first time at a point; returns who refuses its feeds, and why."""
    for name, talk in timed.items():
        refused = talk.send(TimeTurn(point=point, seconds=WARM_UP * seconds)).refused
        if refused:
            return name, refused
    return None


def _again(talk: Timed, turn: TimeTurn, name: str) -> TimeReply:
    """A turn at a point whose feeds were taken before."""
    reply = talk.send(turn)
    if reply.refused:
        raise StepError(f"{name} ran at first, and then not: {reply.refused}")
    return reply


def _take_turns(timed: dict[str, Timed], point: int, seconds: float) -> tuple[TimedRounds, ...]:
    """Give each its seconds in short turns; a turn is one inference at least, so slow models take fewer turns."""
    left = dict.fromkeys(timed, seconds * 1e9)
    rounds: dict[str, list[tuple[int, ...]]] = {name: [] for name in timed}
    while any(remaining > 0 for remaining in left.values()):
        for name, talk in timed.items():
            if left[name] > 0:
                taken = _again(talk, TimeTurn(point=point, seconds=seconds / ROUNDS), name).samples.nanoseconds
                rounds[name].append(taken)
                left[name] -= sum(taken)
    return tuple(TimedRounds(name=name, rounds=tuple(taken)) for name, taken in rounds.items())
