"""The DAG of one pipeline, written once: `submit` decides where its steps run."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from flows.findings import Finding, Findings, MadeTrunk
from flows.regression import Baseline, baseline_of, judged, scored
from flows.submit import Result, Submit
from flows.verdicts import hopeless, suspected, verdict_of
from tasks.benchmark import BenchmarkMetrics, Contender, benchmark
from tasks.build import build
from tasks.calibrate import calibrate
from tasks.context import Context
from tasks.core.config import EngineConfig, OnnxModel, PipelineConfig, PrecisionConfig
from tasks.core.errors import ArtifactDamaged, CannotRun, ConfigError, DoesNotApply, StepError, TrtflowError
from tasks.core.report import Artifact
from tasks.core.signature import Signature
from tasks.data import prepare_data
from tasks.evaluate import SOURCE, EvaluateMetrics, evaluate, metric_of
from tasks.export import export
from tasks.facts import facts as count_facts
from tasks.fold import fold
from tasks.gates import Verdict
from tasks.inspect import inspect_source, signature_of
from tasks.judge import judge
from tasks.layers import layers
from tasks.lower import lower
from tasks.parity import ParityMetrics, parity
from tasks.prune import prune
from tasks.quantize import quantize
from tasks.repair import repair
from tasks.runtimes.load import DEPLOYABLE, LAYERED, installed, offline, runs_here
from tasks.runtimes.tensorrt_dialects import reads
from tasks.sources.onnx_graph import GraphFacts
from tasks.target import Target
from tasks.verify_range import RangeMetrics, verify_range


@dataclass(frozen=True)
class Trunk:
    """What all precisions share."""

    signature: Signature
    data: Result[Artifact]
    exported: Result[Artifact]
    folded: Result[Artifact]
    judged: tuple[Result[Artifact], Result[Artifact]]
    score: Result[Artifact] | None
    facts: Result[Artifact]  # told, and nothing depends on it

    def steps(self) -> list[Result[Artifact]]:
        """All of them, those first that others depend on."""
        return [self.data, self.exported, self.folded, *self.judged]


@dataclass(frozen=True)
class Typed:
    """One precision's graph, what was judged of it, and what it came from where that is more than the folded graph."""

    graph: Result[Artifact]
    judged: Result[Artifact]
    unrepaired: Result[Artifact] | None
    pruned: tuple[Result[Artifact], ...]
    calibration: Result[Artifact] | None

    def steps(self) -> list[Result[Artifact] | None]:
        """All of them, those first that others depend on."""
        return [*self.pruned, self.unrepaired, self.graph, self.judged, self.calibration]


@dataclass(frozen=True)
class Compiled:
    """The engine of one typed graph, and the graph itself as its parser reads it; `unrepaired` is before the repair."""

    typed: Typed
    graph: Result[Artifact]
    built: Result[Artifact]
    unrepaired: Result[Artifact] | None


@dataclass(frozen=True)
class Branch:
    """One result on its way; `unrepaired` is the engine of the graph before its repair, timed beside it."""

    target: Target
    typed: Typed
    graph: Result[Artifact]
    built: Result[Artifact]
    unrepaired: Result[Artifact] | None
    parity: Result[Artifact]
    score: Result[Artifact] | None
    over_range: Result[Artifact] | None


def targets(config: PipelineConfig, *, typed: bool) -> list[Target]:
    """What is to be built: every precision for every engine that wants it, defaults filled in."""
    calibrated = config.data.calibration is not None
    kinds = config.precisions or _default_precisions(typed=typed, calibrated=calibrated)
    engines = config.engines or tuple(
        # What nobody asked for must not fail the run.
        EngineConfig(runtime=name, name=name, optional=name != "onnxruntime")
        for name in DEPLOYABLE
        if installed(name) and runs_here(name)
    )
    return [
        Target(engine=engine, precision=precision, run_on=other)
        for engine in engines
        for precision in kinds
        if engine.precisions is None or precision.name in engine.precisions
        for other in ("", *engine.run_on)
    ]


def _default_precisions(*, typed: bool, calibrated: bool) -> tuple[PrecisionConfig, ...]:
    """A graph may be its own precision; any other gets int8 too where there is data to calibrate it."""
    if typed:
        return (PrecisionConfig(kind="typed", name="typed"),)
    half = PrecisionConfig(kind="fp16", name="fp16", optional=True)  # nobody asked for it: it must not fail the run
    eight = PrecisionConfig.model_validate({"int8": {"optional": True}})
    return (PrecisionConfig(kind="fp32", name="fp32"), half, *((eight,) if calibrated else ()))


def convert(context: Context, submit: Submit) -> Findings:
    """Run every step up to the benchmark; one engine's failure is recorded and its siblings go on."""
    return convert_known(context, submit, source_facts(context, submit))


def convert_known(context: Context, submit: Submit, facts: GraphFacts | None) -> Findings:
    """Run every step behind `source_facts`."""
    trunk = _trunk(context, submit, facts)
    wanted = targets(context.config, typed=bool(facts and facts.typed))
    absent = {target.engine.name: reason for target in wanted if (reason := _absent(context, target.engine))}
    here = [target for target in wanted if target.engine.name not in absent]
    bounded = _is_bounded(context)  # else nothing is waited for
    if bounded and (refused := hopeless(context, _score(context, trunk.score))) is not None:
        return _refused(wanted, refused)
    branches = list(_branches(context, submit, trunk, here))
    source = _score(context, trunk.score)
    skipped = [_skipped(target, absent[target.engine.name]) for target in wanted if target not in here]
    results = (*(_finding(context, trunk, branch, source) for branch in branches), *skipped)
    results = tuple(_layered(context, submit, trunk, found) for found in results)
    failure = _first_error(trunk.steps())
    uncounted = _first_error([trunk.facts])
    baseline = baseline_of(context, results)
    score = scored(context, submit, baseline, trunk.data, trunk.exported)
    measured, broken = _measure(context, submit, trunk, results, baseline)
    results = judged(context, results, measured, baseline, score)
    return Findings(
        results=results,
        benchmark=measured,
        source_metric=source,
        failure=failure or broken,
        trunk=None if failure else _made_trunk(trunk),
        suspected=suspected(context, _scored(context, trunk.score)),
        uncounted=None if failure else uncounted,
    )


def _made_trunk(trunk: Trunk) -> MadeTrunk:
    return MadeTrunk(trunk.data.result(), trunk.exported.result(), trunk.folded.result())


def _is_bounded(context: Context) -> bool:
    """Whether the metric has bounds that the source itself may miss."""
    metric = metric_of(context)
    return metric is not None and (metric.min is not None or metric.max is not None)


def _refused(wanted: Sequence[Target], error: StepError) -> Findings:
    """Findings of a run that ends before anything was built."""
    results = tuple(Finding(target, Verdict(status="failed", reason=error.message)) for target in wanted)
    return Findings(results, None, None, error, None)


def source_facts(context: Context, submit: Submit) -> GraphFacts | None:
    """Look into an ONNX source: the rest of the DAG depends on what its graph takes."""
    if not isinstance(context.config.model, OnnxModel):
        return None
    return context.metrics(submit(inspect_source, "", context).result(), GraphFacts)


def _trunk(context: Context, submit: Submit, facts: GraphFacts | None) -> Trunk:
    signature = signature_of(context.pipeline, context.config, facts)
    data = submit(prepare_data, "", context, signature)
    exported = submit(export, "", context, signature, data, facts.external_files if facts else ())
    folded = submit(fold, "", context, data, exported)
    judged = (
        submit(judge, "exported", context, data, exported, "exported"),
        submit(judge, "folded", context, data, folded, "folded"),
    )
    scored = metric_of(context) is not None
    score = submit(evaluate, SOURCE, context, SOURCE, data, exported, None) if scored else None
    return Trunk(signature, data, exported, folded, judged, score, submit(count_facts, "", context, signature, folded))


def _branches(context: Context, submit: Submit, trunk: Trunk, wanted: Sequence[Target]) -> Iterator[Branch]:
    typed: dict[str, Typed] = {}
    compiled: dict[str, Compiled] = {}
    for target in wanted:
        name, engine = target.precision.name, target.builder.id
        if name not in typed:
            typed[name] = _typed(context, submit, trunk, target.precision)
        if engine not in compiled:
            compiled[engine] = _compiled(context, submit, trunk, target.builder, typed[name])
        yield _branch(context, submit, trunk, target, compiled[engine])


def _typed(context: Context, submit: Submit, trunk: Trunk, precision: PrecisionConfig) -> Typed:
    name, data = precision.name, trunk.data
    pruned: tuple[Result[Artifact], ...] = ()
    source = trunk.folded
    if precision.prune:
        source = submit(prune, name, context, trunk.folded, precision)
        pruned = (submit(judge, f"pruned {name}", context, data, source, f"pruned {name}"),)
    made = submit(quantize, name, context, data, source, precision)
    in_graph = precision.calibrated and not precision.by_tensorrt
    graph = submit(repair, name, context, data, trunk.exported, made, precision) if precision.repair else made
    return Typed(
        graph=graph,
        judged=submit(judge, name, context, data, graph, name),
        unrepaired=made if precision.repair else None,
        pruned=pruned,
        calibration=submit(calibrate, name, context, data, made, precision) if in_graph else None,
    )


def _compiled(context: Context, submit: Submit, trunk: Trunk, target: Target, typed: Typed) -> Compiled:
    def engine(made: Target, graph: Result[Artifact]) -> tuple[Result[Artifact], Result[Artifact]]:
        readable = _readable(context, submit, trunk, made, graph)
        inputs = (trunk.data, trunk.exported, readable)
        return readable, submit(build, made.id, context, made, trunk.signature, inputs)

    graph, built = engine(target, typed.graph)
    before = engine(target.unrepaired, typed.unrepaired)[1] if typed.unrepaired else None
    return Compiled(typed, graph, built, before)


def _readable(
    context: Context, submit: Submit, trunk: Trunk, target: Target, typed: Result[Artifact]
) -> Result[Artifact]:
    """The typed graph in an opset that the engine's parser reads."""
    engine = target.engine
    readable = reads(context.interpreter(engine.runtime, engine.interpreter), target.precision.kind)
    return submit(lower, target.id, context, target, trunk.data, typed, readable) if readable else typed


def _branch(context: Context, submit: Submit, trunk: Trunk, target: Target, compiled: Compiled) -> Branch:
    typed, built = compiled.typed, compiled.built
    hops = (trunk.exported, *trunk.judged, typed.judged, *typed.pruned)
    compared = submit(parity, target.id, context, target, trunk.data, built, hops)
    over_range = None
    if trunk.signature.dims and not target.run_on:
        graphs = (trunk.data, trunk.exported, trunk.folded, typed.graph, built)
        over_range = submit(verify_range, target.id, context, target, trunk.signature, graphs)
    score = submit(evaluate, target.id, context, target, trunk.data, trunk.exported, built) if trunk.score else None
    unrepaired = None if target.run_on else compiled.unrepaired
    return Branch(target, typed, compiled.graph, built, unrepaired, compared, score, over_range)


def _first_error(steps: Sequence[Result[Artifact] | None]) -> TrtflowError | None:
    """The error of the first step that failed: those behind it failed because of it.

    A damaged artifact and a wrong YAML are no result of a step: they go up to whoever runs the pipeline.
    """
    for submitted in steps:
        try:
            _ = submitted.result() if submitted else None
        except (ArtifactDamaged, ConfigError):
            raise
        except TrtflowError as error:
            return error
    return None


def _scored(context: Context, score: Result[Artifact] | None) -> EvaluateMetrics | None:
    made = _made(score)
    return context.metrics(made, EvaluateMetrics) if made else None


def _score(context: Context, score: Result[Artifact] | None) -> float | None:
    found = _scored(context, score)
    return found.value if found else None


def _finding(context: Context, trunk: Trunk, branch: Branch, source: float | None) -> Finding:
    """Judge one result: the boundary at which a failure becomes a line of the report."""
    made = [*trunk.steps(), *branch.typed.steps(), branch.graph, branch.built]
    steps = [*made, branch.parity, branch.over_range, trunk.score, branch.score]
    error = _first_error(steps)
    found = Finding(
        branch.target,
        Verdict(status="error", reason=str(error)),
        built=_made(branch.built),
        typed=_made(branch.typed.graph),
        compiled=_made(branch.graph),
        unrepaired=_made(branch.unrepaired),
        calibration=_made(branch.typed.calibration),
    )
    if isinstance(error, CannotRun):
        what = "built, not run" if found.built else "not built"
        return replace(found, verdict=Verdict(status="built", reason=f"{what}: {error.message}"))
    if context.config.precisions is None and isinstance(error, DoesNotApply):  # nobody asked for it
        return replace(found, verdict=Verdict(status="skipped", reason=error.message))
    if error is not None:
        return found
    compared = context.metrics(branch.parity.result(), ParityMetrics)
    metric = _score(context, branch.score)
    over_range = context.metrics(branch.over_range.result(), RangeMetrics) if branch.over_range else None
    verdict = verdict_of(context, branch.target, (compared, over_range), (metric, source))
    return replace(found, verdict=verdict, parity=compared, metric=metric, over_range=over_range)


def _layered(context: Context, submit: Submit, trunk: Trunk, found: Finding) -> Finding:
    """Add the table of the layers of an engine that ran; one that cannot be made is told, and harms nothing."""
    if found.parity is None or found.target.engine.runtime not in LAYERED:
        return found
    made = submit(
        layers, found.target.id, context, found.target, trunk.signature, trunk.data, (found.compiled, found.built)
    )
    error = _first_error([made])
    return replace(found, no_layers=error.message) if error else replace(found, layers=made.result())


def _made(submitted: Result[Artifact] | None) -> Artifact | None:
    """What a step made, None where it made nothing."""
    return None if submitted is None or _first_error([submitted]) is not None else submitted.result()


def _absent(context: Context, engine: EngineConfig) -> str:
    """Why an engine is not even built here; empty where it is."""
    if not context.interpreter(engine.runtime, engine.interpreter).is_here:
        return f"{engine.interpreter or engine.runtime} is not installed here: see `trtflow doctor`"
    if not runs_here(engine.runtime) and not offline(engine.runtime):
        return f"{engine.runtime} builds and runs on an NVIDIA GPU, and there is none here"
    return ""


def _skipped(target: Target, reason: str) -> Finding:
    return Finding(target, Verdict(status="skipped", reason=reason))


def _measure(
    context: Context, submit: Submit, trunk: Trunk, results: Sequence[Finding], baseline: Baseline | None
) -> tuple[BenchmarkMetrics | None, TrtflowError | None]:
    """Time what passed; the benchmark's own failure fails the run, not the engines."""
    contenders = [
        *_contenders(results),
        *([baseline.contender] if baseline and baseline.contender and _times_promoted(context) else []),
    ]
    if not any(contender.engine for contender in contenders):
        return None, None
    measured = submit(benchmark, "", context, trunk.signature, trunk.data, trunk.exported, contenders)
    error = _first_error([measured])
    return (None, error) if error else (context.metrics(measured.result(), BenchmarkMetrics), None)


def _times_promoted(context: Context) -> bool:
    return context.config.gates.latency_regression is not None


def _contenders(results: Sequence[Finding]) -> Iterator[Contender]:
    """What passed, then what the repaired ones of it were made from."""
    passed = [found for found in results if found.verdict.status == "passed"]
    for found in passed:
        if found.built is not None:
            own, plain = found.target, found.target.precision.kind == "fp32"
            engine = own.label
            yield Contender(name=own.id, built=found.built, engine=engine, run_on=own.run_on, plain=plain)
    for found in passed:
        if found.unrepaired is not None and found.unrepaired != found.built:
            before = found.target.unrepaired
            yield Contender(name=before.id, built=found.unrepaired, engine=before.engine.name, repaired=found.target.id)
