"""`trtflow show NAME --where [ID]`: the output, the node and the module of the source that a precision makes wrong."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from flows.convert import convert_known, source_facts, targets
from flows.journal import Journal
from flows.options import Options, placed
from flows.submit import ThreadSubmit, run_step
from flows.table import aligned
from flows.terminal import Progress
from tasks.context import Context
from tasks.core.config import Config, PrecisionConfig
from tasks.core.config_fields import suggest
from tasks.core.errors import ArtifactDamaged, ConfigError, NotMade, TrtflowError
from tasks.core.frozen import Frozen
from tasks.core.metrics import UNBOUNDED, OutputError
from tasks.core.outcome import EngineOutcome, RunRecord
from tasks.core.report import Artifact
from tasks.core.store import Store
from tasks.parity import ParityMetrics
from tasks.runtimes.attribution import TENSORS, TensorError, WhereMetrics
from tasks.runtimes.isolate import Workers
from tasks.where import where


class OutputCosts(Frozen):
    """What the precision and what the runtime did to one output."""

    precision_cost: OutputError
    runtime_cost: OutputError


class Shown(Frozen):
    """What `--json` prints; `outputs` is empty where the engine was not reached."""

    pipeline: str
    run: str
    id: str
    outputs: dict[str, OutputCosts]
    where: WhereMetrics
    artifact: str


class _Found(Frozen):
    """What the store holds of one result; `folded` is pruned where the precision prunes before it quantises."""

    precision: PrecisionConfig
    data: Artifact
    exported: Artifact
    folded: Artifact
    typed: Artifact
    parity: Artifact | None


def show_where(record: RunRecord, wanted: str, config: Config, options: Options, store: Store) -> int:
    """Attribute the error of one result; what was attributed before is read from the store."""
    outcome = record.outcome
    engine, root = _engine(record, wanted), store.root
    try:
        with Workers() as workers, Progress(outcome.pipeline, quiet=options.json) as progress:
            journal = Journal(progress.changed)
            pipeline, interpreters = config.pipelines[outcome.pipeline], config.interpreters
            context = Context(outcome.pipeline, pipeline, store, workers, journal, interpreters=interpreters)
            with store.in_use(outcome.pipeline):
                shown = _shown(context, journal, outcome.run, engine)
    except ConfigError as error:
        raise placed(error, outcome.pipeline, options) from error
    except ArtifactDamaged as damage:
        raise TrtflowError(damage.message, f"have it made again: trtflow run {outcome.pipeline} --verify") from damage
    print(shown.model_dump_json() if options.json else "\n".join(_lines(shown, engine, root)))
    return 0


def _engine(record: RunRecord, wanted: str) -> EngineOutcome:
    """The result that was asked for: of those that the name fits, the one whose precision costs most."""
    engines = record.outcome.engines
    fits = [engine for engine in engines if wanted in ("", engine.id, engine.precision)]
    if not fits:
        names = sorted({name for engine in engines for name in (engine.id, engine.precision)})
        raise ConfigError(f"the last run of {record.outcome.pipeline} has no result {wanted!r}", suggest(wanted, names))
    return max(fits, key=lambda engine: engine.parity.precision_cost.rel_l2 if engine.parity else -1.0)


def _shown(context: Context, journal: Journal, run: str, engine: EngineOutcome) -> Shown:
    found = _found(context, engine.id)
    arguments = [context, found.data, (found.exported, found.folded, found.typed), found.precision]
    artifact = run_step(journal, where, found.precision.name, lambda: arguments)
    return Shown(
        pipeline=context.pipeline,
        run=run,
        id=engine.id,
        outputs=_costs(context, found.parity),
        where=context.metrics(artifact, WhereMetrics),
        artifact=artifact.folder,
    )


def _found(context: Context, wanted: str) -> _Found:
    """Walk the DAG without computing anything, and take what it passes."""
    journal = Journal()
    with ThreadSubmit(journal) as submit:
        dry = replace(context, journal=journal, dry=True)
        try:
            facts = source_facts(dry, submit)
        except NotMade as reason:
            raise _not_made(context.pipeline, "inspect", str(reason)) from reason
        convert_known(dry, submit, facts)
    known = targets(context.config, typed=bool(facts and facts.typed))
    target = next((target for target in known if target.id == wanted), None)
    if target is None:
        raise ConfigError(f"{context.pipeline} has no result {wanted!r} any more", "ask for one that the YAML names")

    def made(step: str, subject: str = "") -> Artifact:
        entry = journal.entries[step, subject]
        if entry.artifact is None:
            raise _not_made(context.pipeline, f"{step} {subject}".rstrip(), entry.error)
        return entry.artifact

    precision = target.precision
    return _Found(
        precision=precision,
        data=made("data"),
        exported=made("export"),
        folded=made("prune", precision.name) if precision.prune else made("fold"),
        typed=_repaired(journal, precision) or made("quantize", precision.name),
        parity=journal.entries["parity", target.id].artifact,
    )


def _repaired(journal: Journal, precision: PrecisionConfig) -> Artifact | None:
    """The repaired graph; where the repair failed, the graph that it started from is what there is to look at."""
    entry = journal.entries.get(("repair", precision.name))
    return entry.artifact if entry else None


def _not_made(pipeline: str, step: str, reason: str) -> TrtflowError:
    why = f": {reason}" if reason else ""
    return TrtflowError(
        f"the store does not hold what {step} makes of {pipeline}{why}", f"run it: trtflow run {pipeline}"
    )


def _costs(context: Context, parity: Artifact | None) -> dict[str, OutputCosts]:
    if parity is None:
        return {}
    hops = context.metrics(parity, ParityMetrics).hops
    runtime = hops["runtime_cost"].outputs
    return {
        name: OutputCosts(precision_cost=cost, runtime_cost=runtime[name])
        for name, cost in hops["precision_cost"].outputs.items()
    }


def _lines(shown: Shown, engine: EngineOutcome, root: Path) -> Iterator[str]:
    yield f"{shown.pipeline}: run {shown.run}, {shown.id}"
    if shown.outputs:
        yield from aligned([_COSTS, *(_cost_cells(name, costs) for name, costs in shown.outputs.items())])
    else:
        yield f"no engine was compared: {engine.reason}"
    found = shown.where
    yield _first(found)
    if found.most_added:
        yield from aligned([_TENSOR, *map(_tensor_cells, found.most_added)])
        yield "added: how much larger rel_l2 is than that of any tensor from which this one is computed"
    without = f", {found.not_comparable} have no counterpart" if found.not_comparable else ""
    yield f"{found.compared} tensors compared{without}: {root / shown.artifact / TENSORS}"


_COSTS = ("output", "precision cost: rel_l2", "cosine", "max abs", "runtime cost: rel_l2", "cosine", "max abs")
_TENSOR = ("tensor", "added", "rel_l2", "cosine", "operator", "node", "module")


def _cost_cells(name: str, costs: OutputCosts) -> tuple[str, ...]:
    return (name, *_error_cells(costs.precision_cost), *_error_cells(costs.runtime_cost))


def _error_cells(error: OutputError) -> tuple[str, str, str]:
    return _figure(error.rel_l2), f"{error.cosine:.5f}", _figure(error.max_abs_error)


def _tensor_cells(tensor: TensorError) -> tuple[str, ...]:
    figures = (_figure(tensor.added), _figure(tensor.rel_l2), f"{tensor.cosine:.5f}")
    return (tensor.name, *figures, tensor.op_type, tensor.node, tensor.module)


def _figure(value: float) -> str:
    return "NaN or Inf" if value >= UNBOUNDED else f"{value:.1e}" if value else "0"


def _first(found: WhereMetrics) -> str:
    bad, bound = found.first_bad, f"rel_l2 {found.bound:g}" if found.bound is not None else "any bound"
    if bad is None:
        return f"no tensor is beyond {bound}"
    module = f", in module {bad.module}" if bad.module else ""
    maker = f"{bad.op_type} {bad.node}".rstrip()
    return f"first tensor beyond {bound}: {bad.name} ({_figure(bad.rel_l2)}), made by {maker}{module}"
