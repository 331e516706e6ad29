"""Step `repair`: float the fewest nodes of a quantised graph that bring it within its goal."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from tasks.context import Context, Files, Work, params
from tasks.core.config import MetricConfig, PrecisionConfig, RepairBounds, RepairConfig
from tasks.core.report import Artifact, Observation, Recipe
from tasks.core.sets import EVALUATION, EVALUATION_OUTPUTS, GOLDEN, GOLDEN_OUTPUTS, TARGETS
from tasks.core.store import Made
from tasks.homes import ONNX, user_home
from tasks.runtimes.isolate import Conversation
from tasks.sources.declared import extra_files
from tasks.sources.float_search import Floated, Search
from tasks.sources.onnx_graph import ExportMetrics
from tasks.sources.onnx_repair import (
    SETS,
    ApplyRequest,
    RepairedMetrics,
    RepairOpening,
    RepairReply,
    RepairReport,
    RepairTurn,
    TrialError,
    TrialSet,
    apply_repair,
    try_repairs,
)
from tasks.sources.user_metric import MetricRequest, measure
from tasks.step import StepOptions, step

OPTIONS = StepOptions("repair", version=1)
Talk: TypeAlias = Conversation[RepairTurn, RepairReply]


@step(OPTIONS)
def repair(
    context: Context, data: Artifact, exported: Artifact, typed: Artifact, precision: PrecisionConfig
) -> Artifact:
    """Make the model.onnx that reaches the goal; raise StepError where none within the budget does."""
    config = precision.repair
    assert config is not None  # noqa: S101 - the flow submits this step only where a repair is asked for
    metric = _metric(context, config)
    recipe = _recipe(context, (data, exported, typed), precision, metric)

    def make(folder: Path) -> Made:
        opening = RepairOpening(
            model=context.model_file(typed),
            golden=context.file(data, GOLDEN),
            expected=context.file(exported, GOLDEN_OUTPUTS),
        )
        scratch = folder / "scratch"
        with context.workers.converse(ONNX, try_repairs, opening, scratch=scratch / "trials") as talk:
            scorer = Scorer(context, metric, (data, exported), scratch / "metric") if metric else None
            found = _search(talk, config, scorer)
        floated = tuple(node.name for node in found.report.floated)
        request = ApplyRequest(model=opening.model, floated=floated, folder=folder)
        typed_graph = context.call(ONNX, apply_repair, request, folder)
        context.link(typed, {name: name for name in typed_graph.facts.external_files}, folder)
        metrics = RepairedMetrics(**dict(typed_graph), repair=found.report)
        return Made(params(metrics), found.observed)

    return context.produce(Work(recipe, make, observing=True))


def _metric(context: Context, config: RepairConfig) -> MetricConfig | None:
    """The user's metric, where the goal asks for it."""
    evaluation = context.config.data.evaluation
    return evaluation.metric if evaluation and any(goal.metric_drop is not None for goal in config.goals) else None


def _recipe(
    context: Context,
    inputs: tuple[Artifact, Artifact, Artifact],
    precision: PrecisionConfig,
    metric: MetricConfig | None,
) -> Recipe:
    data, exported, typed = inputs
    recipe = context.recipe(OPTIONS, precision.name, tools=("onnx", "onnxruntime", "numpy"))
    repairing = params(precision.repair) if precision.repair else None
    recipe = recipe.model_copy(
        update={
            "params": {"repair": repairing, "metric": params(metric) if metric else None},
            "sources": extra_files(context) if metric else {},
        }
    )
    sets = (GOLDEN, EVALUATION, TARGETS) if metric else (GOLDEN,)
    outputs = (GOLDEN_OUTPUTS, EVALUATION_OUTPUTS) if metric else (GOLDEN_OUTPUTS,)
    return context.using(recipe, typed=Files(typed), data=Files(data, sets), source=Files(exported, outputs))


@dataclass
class Scorer:
    """Scores outputs on the evaluation data by the user's metric, in a worker of their own."""

    context: Context
    metric: MetricConfig
    made: tuple[Artifact, Artifact]
    folder: Path
    observed: tuple[Observation, ...] = ()
    source: float | None = None

    def score(self, talk: Talk, floated: Floated) -> float:
        """Run the evaluation data with these nodes in float."""
        self.folder.mkdir(parents=True, exist_ok=True)
        data, outputs = self.made[0], self.folder / "outputs.safetensors"
        talk.send(
            RepairTurn(floated=tuple(sorted(floated)), feeds=self.context.file(data, EVALUATION), outputs=outputs)
        )
        return self._measure(outputs)

    def lost(self, score: float) -> float:
        """What a score lost against the source framework's own."""
        if self.source is None:
            self.source = self._measure(self.context.file(self.made[1], EVALUATION_OUTPUTS))
        return self.source - score if self.metric.higher_is_better else score - self.source

    def _measure(self, outputs: Path) -> float:
        data, exported = self.made
        request = MetricRequest(
            project=self.context.project,
            function=self.metric.function,
            outputs=outputs,
            targets=self.context.file(data, TARGETS),
            reference=self.context.file(exported, EVALUATION_OUTPUTS),
            folder=self.folder,
            axes=self.context.metrics(exported, ExportMetrics).facts.later_axes,
        )
        home = user_home(self.context.config.model)
        reply = self.context.workers.call(home, measure, request, scratch=self.folder / "scratch")
        self.observed = tuple(dict.fromkeys((*self.observed, *reply.observed)))
        return reply.value


@dataclass
class _Trials:
    """What the search asks; every answer is remembered."""

    talk: Talk
    config: RepairConfig
    scorer: Scorer | None
    errors: dict[tuple[Floated, TrialSet], TrialError] = field(default_factory=dict)
    scores: dict[Floated, float] = field(default_factory=dict)

    def error(self, floated: Floated) -> float:
        return self.of(floated, "search").rel_l2

    def accepts(self, floated: Floated) -> bool:
        return any(self._reaches(goal, floated) for goal in self.config.goals)

    def of(self, floated: Floated, on: TrialSet) -> TrialError:
        if (floated, on) not in self.errors:
            error = self.talk.send(RepairTurn(floated=tuple(sorted(floated)), on=on)).error
            assert error is not None  # noqa: S101 - a turn without feeds is answered by its error
            self.errors[floated, on] = error
        return self.errors[floated, on]

    def both(self, floated: Floated) -> dict[TrialSet, TrialError]:
        return {on: self.of(floated, on) for on in SETS}

    def _reaches(self, goal: RepairBounds, floated: Floated) -> bool:
        for on in SETS:
            error = self.of(floated, on)
            if goal.rel_l2 is not None and error.rel_l2 > goal.rel_l2:
                return False
            if goal.cosine is not None and error.cosine < goal.cosine:
                return False
        if goal.metric_drop is None or self.scorer is None:
            return True
        if floated not in self.scores:
            self.scores[floated] = self.scorer.score(self.talk, floated)
        return self.scorer.lost(self.scores[floated]) <= goal.metric_drop


@dataclass(frozen=True)
class _Found:
    report: RepairReport
    observed: tuple[Observation, ...]


def _words(config: RepairConfig) -> str:
    """The goal as the YAML writes it."""
    goals = [goal.model_dump(exclude_none=True) for goal in config.goals]
    return " or ".join(", ".join(f"{name} {bound:g}" for name, bound in goal.items()) for goal in goals)


def _search(talk: Talk, config: RepairConfig, scorer: Scorer | None) -> _Found:
    begin = time.monotonic()
    late: Callable[[], bool] = lambda: time.monotonic() - begin > config.budget  # noqa: E731
    trials = _Trials(talk, config, scorer)
    search = Search(talk.first.candidates, trials, late, _words(config))
    floated = search.run()
    nothing: Floated = frozenset()
    report = RepairReport(
        quantized_nodes=len(talk.first.candidates),
        floated=tuple(node for node in talk.first.candidates if node.name in floated),
        before=trials.both(nothing),
        after=trials.both(floated),
        metric_before=trials.scores.get(nothing),
        metric_after=trials.scores.get(floated),
        curve=tuple(search.curve),
        trials=len(trials.errors),
        seconds=round(time.monotonic() - begin, 3),
    )
    return _Found(report, scorer.observed if scorer else ())
