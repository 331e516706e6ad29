"""Which hop made a result's error, and which nodes where that is known: for the terminal and for the page."""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from pydantic import ValidationError

from flows.asked import Asked
from flows.evidence import HOP_NAMES, HOPS, Evidence
from tasks.core.errors import StoreError
from tasks.core.metrics import UNBOUNDED
from tasks.core.outcome import EngineOutcome
from tasks.core.store import read_report
from tasks.runtimes.attribution import WhereMetrics
from tasks.sources.onnx_repair import RepairedMetrics

# Results whose error is explained at once; the chart and the table tell of all.
_FURTHEST = 3
# An error so many times below its bound is not worth a sentence.
_FAR_BELOW = 10
_NODES = 3
_CASTS = frozenset({"fp32", "fp16", "bf16"})
_UNKNOWN = Asked()


def figure(error: float) -> str:
    """An error for people."""
    if error >= UNBOUNDED:
        return "NaN or Inf"
    return "0" if error == 0 else f"{error:.2g}" if error >= 1e-3 else f"{error:.1e}"  # noqa: PLR2004 - as usual


def worst_hop(found: Evidence, engine: EngineOutcome) -> tuple[str, float, float] | None:
    """The hop that made most of a result's error, that error, and that of the whole way."""
    hops = found.hops(engine)
    steps = {name: hops[name] for name in HOPS if name in hops}
    if not steps:
        return None
    name = max(steps, key=steps.__getitem__)
    return name, steps[name], hops["vs_source"]


def made_by(found: Evidence, engine: EngineOutcome, asked: Asked = _UNKNOWN) -> str:
    """Which hop made a result's error, in words; empty where nothing was compared."""
    worst = worst_hop(found, engine)
    if worst is None:
        return ""
    name, error, whole = worst
    if whole == 0 and error == 0:
        return "it has no error"
    nodes = f" {told}" if name == "precision_cost" and (told := _nodes(found, engine, asked)) else ""
    return f"largest hop: {_deed(name, asked.kind(engine))} {figure(error)}; whole way {figure(whole)}{nodes}"


def _deed(hop: str, kind: str) -> str:
    if hop != "precision_cost":
        return HOP_NAMES.get(hop, hop)
    if not kind or kind == "typed":
        return "quantising or casting (precision hop)"
    return f"{'casting' if kind in _CASTS else 'quantising'} (precision hop)"


def error_sentences(found: Evidence, asked: Asked = _UNKNOWN) -> Iterator[str]:
    """Where the error is made: worst first, without those that are far below their bound."""
    compared = {engine.id: engine for engine in found.results if found.hops(engine)}
    if not compared:
        yield "not known: no engine was compared with the source model"
        return
    errors = {name: found.hops(engine)["vs_source"] for name, engine in compared.items()}
    worth = [name for name, engine in compared.items() if not _far_below(errors[name], engine, asked)]
    for name in sorted(worth, key=lambda each: -errors[each])[:_FURTHEST]:
        yield f"{name}: {made_by(found, compared[name], asked)}"
    told = min(len(worth), _FURTHEST)
    if below := [name for name in compared if name not in worth]:
        names = "all results" if not worth else ", ".join(below)
        yield f"far below {'their bounds' if len(below) > 1 else 'its bound'}: {names}"
    if len(worth) > told:
        yield f"and {len(worth) - told} more, see the table"


def _far_below(error: float, engine: EngineOutcome, asked: Asked) -> bool:
    bound = asked.bound(engine)
    limit = bound.tolerance.rel_l2 if bound else None
    return limit is not None and engine.status != "failed" and error * _FAR_BELOW <= limit


def mostly(found: Evidence) -> str:
    """The hop that makes most of the error in most results."""
    worst = [hop[0] for engine in found.results if (hop := worst_hop(found, engine)) and hop[1] > 0]
    if not worst:
        return ""
    name, count = Counter(worst).most_common(1)[0]
    where = "In quantising or casting" if name == "precision_cost" else f"In the {HOP_NAMES.get(name, name)}"
    return f"{where}, for {count} of {len(worst)} results" if len(worst) > 1 else where


def _nodes(found: Evidence, engine: EngineOutcome, asked: Asked) -> str:
    """The nodes that add most of the precision's error, where somebody looked; else those that repair floated."""
    if looked := _looked_at(found, engine):
        return f"(most at {_listed(looked)})"
    for other in (engine, *found.results):
        same = other.precision == engine.precision or (asked.kind(engine) and asked.kind(other) == asked.kind(engine))
        repaired = found.metrics("repair", other.precision, RepairedMetrics) if same else None
        if repaired and repaired.repair.floated:
            names = _listed([node.name for node in repaired.repair.floated])
            if other.precision == engine.precision:
                return f"(repair put {names} back in fp32)"
            return f"(what {other.precision}'s repair put back in fp32: {names})"
    return ""


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NODES} more" if len(names) > _NODES else ""
    return ", ".join(names[:_NODES]) + more


def _looked_at(found: Evidence, engine: EngineOutcome) -> list[str]:
    """What `show --where` found of the very graph that this result was made from."""
    made = found.reports.get(("repair", engine.precision)) or found.reports.get(("quantize", engine.precision))
    if made is None:
        return []
    for folder in sorted(Path(found.root, found.record.outcome.pipeline, "where").glob("*/report.json")):
        try:
            report = read_report(folder.parent)
        except StoreError:
            continue
        if made.artifact.folder not in report.recipe.lineage:
            continue
        with contextlib.suppress(ValidationError):
            return [node.node or node.name for node in WhereMetrics.model_validate(report.metrics).most_added]
    return []
