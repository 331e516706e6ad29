"""What the model is, step by step: sizes, nodes and operators, and what it costs to run."""

from dataclasses import dataclass

from flows.evidence import Evidence
from tasks.core.report import Report
from tasks.runtimes.base import ENGINE
from tasks.sources.onnx_flops import ModelFacts
from tasks.sources.onnx_fold import FoldMetrics
from tasks.sources.onnx_graph import ExportReply, GraphFacts

_STAGES = ("export", "fold", "prune", "quantize", "repair", "lower", "build")


@dataclass(frozen=True)
class Stage:
    """One graph or engine on the way: its bytes, and for a graph its nodes."""

    step: str
    subject: str
    bytes: int
    nodes: int | None


@dataclass(frozen=True)
class Shown:
    """What the page tells of the model; parts that the store no longer holds are None."""

    exported: GraphFacts | None
    folded: GraphFacts | None
    costs: ModelFacts | None
    stages: tuple[Stage, ...]

    @property
    def operators(self) -> list[tuple[str, int, int]]:
        """Each operator with its nodes before and after folding, the most frequent first."""
        before = self.exported.operators if self.exported else {}
        after = self.folded.operators if self.folded else {}
        names = {**before, **after}
        rows = [(name, before.get(name, 0), after.get(name, 0)) for name in names]
        return sorted(rows, key=lambda row: (-max(row[1:]), row[0]))


def model_facts(found: Evidence) -> Shown:
    """Read it from the reports of the steps that make a graph or an engine."""
    exported = found.metrics("export", "", ExportReply)
    folded = found.metrics("fold", "", FoldMetrics)
    stages = (
        Stage(step, subject, size, nodes)
        for (step, subject), report in found.reports.items()
        if step in _STAGES
        for size, nodes in (_size(report),)
        if size
    )
    return Shown(
        exported=exported.facts if exported else None,
        folded=folded.facts if folded else None,
        costs=found.metrics("facts", "", ModelFacts),
        stages=tuple(stages),
    )


def _size(report: Report) -> tuple[int, int | None]:
    """Bytes of the model with its external data, and its nodes where the report tells them."""
    facts = report.metrics.get("facts")
    external = facts.get("external_files") if isinstance(facts, dict) else None
    names = {"model.onnx", ENGINE, *(external if isinstance(external, list) else ())}
    nodes = facts.get("nodes") if isinstance(facts, dict) else None
    size = sum(file.bytes for file in report.files if file.name in names)
    return size, nodes if isinstance(nodes, int) else None
