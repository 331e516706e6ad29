"""What a reader wants to know of a run within seconds, in sentences: for the terminal and for the page."""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from flows.asked import Asked
from flows.blame import figure, made_by
from flows.evidence import Evidence
from flows.table import metric_text
from tasks.core.outcome import EngineOutcome
from tasks.core.promotions import Promotion
from tasks.sources.onnx_repair import RepairedMetrics

_TEN, _HUNDRED = 10, 100
_UNKNOWN = Asked()


@dataclass(frozen=True)
class Refusal:
    """A result that did not pass: its status, the whole reason, what made its error, and what to do next.

    `siblings` are results of the same kind that did pass, by id, each with what sets it apart.
    """

    id: str
    status: str
    reason: str
    made_by: str
    next_command: str
    siblings: dict[str, str]

    @property
    def refused(self) -> bool:
        """Whether a gate or an error kept it from passing; else it could not run here."""
        return self.status in ("failed", "error")


def times(ratio: float) -> str:
    """A ratio for people: three digits are enough."""
    return f"{ratio:.2f}" if ratio < _TEN else f"{ratio:.1f}" if ratio < _HUNDRED else f"{ratio:,.0f}"


def point_text(at: dict[str, int]) -> str:
    """A point of the benchmark."""
    return ", ".join(f"{dim} {size}" for dim, size in at.items()) or "its fixed shape"


def promoted_sentence(found: Evidence) -> str:
    """What the run promoted and why, or why nothing."""
    outcome = found.record.outcome
    if outcome.promoted:
        return f"{outcome.promoted.id}: {outcome.promoted.reason}"
    told = next((note for note in found.record.notes if note.startswith("nothing was promoted")), "")
    if told:
        return told
    if outcome.status == "interrupted":
        return "nothing: the run was interrupted"
    return f"nothing: {found.record.failure or 'a required result did not pass'}"


def in_force(current: Promotion | None) -> str:
    """What is in force now, whichever run or person put it there."""
    if current is None:
        return "nothing"
    signed = f", signed by {signer}" if (signer := signer_of(current)) else ""
    return f"{current.id} ({current.key[:12]}) since {current.at[:19].replace('T', ' ')} UTC{signed}"


def signer_of(promotion: Promotion) -> str:
    """Who signed a promotion, where promotions are signed."""
    return promotion.signature.key_id if promotion.signature else ""


def chosen(found: Evidence) -> EngineOutcome | None:
    """The result that speaks for the run: what was promoted, else the first that passed and was timed."""
    promoted = found.record.outcome.promoted
    if promoted:
        return next((engine for engine in found.results if engine.id == promoted.id), None)
    return next((engine for engine in found.results if engine.status == "passed" and engine.latency), None)


def refusals(found: Evidence, asked: Asked = _UNKNOWN) -> tuple[Refusal, ...]:
    """Every result that did not pass, those first that a gate or an error kept from it."""
    return tuple(sorted(_refusals(found, asked), key=lambda refusal: not refusal.refused))


def _refusals(found: Evidence, asked: Asked) -> Iterator[Refusal]:
    pipeline = found.record.outcome.pipeline
    yield from (
        Refusal(
            id=engine.id,
            status=engine.status,
            reason=asked.named(engine.reason),
            made_by=made_by(found, engine, asked),
            next_command=f"trtflow show {pipeline} --where {shlex.quote(engine.id)}" if found.hops(engine) else "",
            siblings=_siblings(found, engine, asked) if engine.status == "failed" else {},
        )
        for engine in found.results
        if engine.status != "passed"
    )


def _siblings(found: Evidence, refused: EngineOutcome, asked: Asked) -> dict[str, str]:
    """Results that passed, of the same kind of precision and the same engine of the YAML."""
    kind = asked.kind(refused)
    return {
        engine.id: _sibling(found, engine, asked)
        for engine in found.results
        if kind and engine.status == "passed" and (engine.engine, asked.kind(engine)) == (refused.engine, kind)
    }


def _sibling(found: Evidence, engine: EngineOutcome, asked: Asked) -> str:
    repaired = found.metrics("repair", engine.precision, RepairedMetrics)
    error = f"relative L2 error {figure(engine.parity.vs_source.rel_l2)}" if engine.parity else ""
    parts = [error if engine.metric is None else f"{asked.metric or 'metric'} {metric_text(engine.metric)}"]
    if repaired:
        parts += [f"{len(repaired.repair.floated)} of {repaired.repair.quantized_nodes} nodes in fp32"]
    return f"{'after repair ' if repaired else ''}passed: {', '.join(part for part in parts if part)}"


def same_again(found: Evidence) -> dict[str, str]:
    """Lines to copy that give the same run, each with what it does."""
    outcome = found.record.outcome
    version = found.record.environment.packages.get("trtflow", "")
    commands = {
        "pip install -c constraints.txt -e .": f"the exact versions, in a checkout of trtflow {version}".rstrip(),
        f"trtflow run {outcome.pipeline}": "the same run; what did not change is taken from the store",
        f"trtflow run {outcome.pipeline} --rebenchmark": "measure the latencies anew",
    }
    engine = chosen(found)
    if engine and engine.artifact:
        commands[f"trtflow repro {engine.artifact}"] = f"make {engine.id} again from its kept request, and compare"
    return commands


def again(found: Evidence) -> dict[str, str]:
    """Commands that give the same again or tell more, each with what it does."""
    outcome, engine = found.record.outcome, chosen(found)
    pipeline = outcome.pipeline
    commands = same_again(found)
    commands[f"trtflow plan {pipeline}"] = "what would run now, and what changed"
    if engine and engine.parity:
        commands[f"trtflow show {pipeline} --where {shlex.quote(engine.id)}"] = "name the nodes that add most error"
    commands[f"trtflow report {pipeline} --run {outcome.run}"] = "make this page again"
    return commands


def host_line(found: Evidence, asked: Asked = _UNKNOWN) -> str:
    """What figures depend on beside the inputs: processor, GPU, versions of the runtimes that were used."""
    here = found.record.environment
    used = {engine.runtime.partition("-")[0] for engine in found.results} | {"torch"}
    gpu = f"{here.gpu}, driver {here.driver}" if here.gpu else "no GPU"
    versions = [f"{name} {version}" for name, version in here.packages.items() if name in used]
    threads = [f"{name}: {count or 'one a physical core'}" for name, count in asked.threads.items()]
    told = [f"threads of {', '.join(threads)}"] if threads else []
    return " · ".join([f"{here.cpu}, {here.cores} cores", gpu, *versions, *told])


def measured_when(found: Evidence) -> str:
    """When the latencies were measured, where that was not in this run; else empty."""
    report = found.reports.get(("benchmark", ""))
    cached = any(entry.cached for entry in found.record.timeline if entry.step == "benchmark")
    if report is None or not cached:
        return ""
    return f"the latencies were found in the store: measured {report.started[:19].replace('T', ' ')} UTC"
