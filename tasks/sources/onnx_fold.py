"""Fold constants and clean an ONNX graph, without inflating it (in a worker)."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from tasks.core.frozen import Frozen
from tasks.sources.onnx_graph import GraphFacts, load_graph, read_facts
from tasks.sources.onnx_qdq import name_nodes

if TYPE_CHECKING:
    import onnx

# Larger results of folding stay computed at run time: a ConstantOfShape of a few numbers may stand for 256 MiB.
SIZE_THRESHOLD = 1 << 20
# A constant is a tensor: GraphSurgeon fails where it would have to make one of these a constant.
_MAKING_SEQUENCES = frozenset(
    {"SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap", "SplitToSequence"}
    | {"Optional", "OptionalGetElement"}
)
# What many small folded constants may add in all, in bytes, before the graph is rather left as it was.
INFLATION_LIMIT = 16 << 20


class FoldRequest(Frozen):
    """A graph to fold, and with which tool."""

    model: Path
    tool: Literal["graphsurgeon", "polygraphy"]
    folder: Path


class FoldMetrics(Frozen):
    """The graph after folding, what it was before, and whether folding was kept."""

    facts: GraphFacts
    nodes_before: int
    initializer_bytes_before: int
    kept: bool


def fold_graph(request: FoldRequest) -> FoldMetrics:
    """Write the folded model.onnx; external data stays as it is, and is to get a second name in the folder."""
    model = load_graph(request.model)
    before = read_facts(model)
    with contextlib.chdir(request.model.parent):  # what is folded may read external data
        folded = _fold(model, request.tool)
    facts = read_facts(folded)
    kept = facts.initializer_bytes <= before.initializer_bytes + INFLATION_LIMIT
    if not kept:
        folded, facts = load_graph(request.model), before
    name_nodes(folded.graph)
    (request.folder / "model.onnx").write_bytes(folded.SerializeToString(deterministic=True))
    return FoldMetrics(
        facts=facts, nodes_before=before.nodes, initializer_bytes_before=before.initializer_bytes, kept=kept
    )


def _fold(model: "onnx.ModelProto", tool: Literal["graphsurgeon", "polygraphy"]) -> "onnx.ModelProto":
    import onnx_graphsurgeon as gs

    if tool == "polygraphy":
        from polygraphy.backend.onnx import fold_constants

        graph = gs.import_onnx(fold_constants(model, size_threshold=SIZE_THRESHOLD))
    else:
        graph = gs.import_onnx(model).fold_constants(
            size_threshold=SIZE_THRESHOLD, should_exclude_node=lambda node: node.op in _MAKING_SEQUENCES
        )
    return cast("onnx.ModelProto", gs.export_onnx(graph.cleanup().toposort()))
