"""Fold constants of an ONNX graph: what a tool made of it is checked and compared before it is used (in a worker)."""

import contextlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from pydantic import Field

from tasks.core.errors import StepError
from tasks.core.frozen import Frozen
from tasks.sources.constant_branches import take_constant_branches
from tasks.sources.declared_outputs import correct_outputs
from tasks.sources.fold_check import Exported
from tasks.sources.node_order import sort_nodes
from tasks.sources.onnx_graph import GraphFacts, load_graph, read_facts
from tasks.sources.onnx_normalise import drop_value_info, give_outputs_nodes, name_all_nodes, normalise
from tasks.sources.random_operators import random_outputs
from tasks.sources.static_shapes import fold_shapes

if TYPE_CHECKING:
    import onnx
    import onnx_graphsurgeon as gs

Tool = Literal["graphsurgeon", "polygraphy", "none"]

# Larger results of folding stay computed at run time: a ConstantOfShape of a few numbers may stand for 256 MiB.
SIZE_THRESHOLD = 1 << 20
# A constant is a tensor: GraphSurgeon fails where it would have to make one of these a constant.
MAKING_SEQUENCES = frozenset(
    {"SequenceConstruct", "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceMap", "SplitToSequence"}
    | {"Optional", "OptionalGetElement"}
)
# What is folded, in the order in which it is given up where the result is not what it was made from.
BRANCHES, BODIES, SHAPES = "If nodes with a constant condition", "bodies of If, Loop and Scan", "shapes"
_REWRITES = (BRANCHES, BODIES, SHAPES, "constants")
_MESSAGE_LENGTH = 200


class FoldRequest(Frozen):
    """A graph to fold, with which tool, and the golden inputs that show whether it still computes the same.

    `dims` holds the smallest and the largest size of each named dim.
    """

    model: Path
    tool: Tool
    golden: Path
    folder: Path
    dims: dict[str, tuple[int, int]] = Field(default_factory=dict)


class FoldMetrics(Frozen):
    """The graph after folding, what it was before, and whether folding was kept.

    `prepared` is what was done to the graph first. `left_out` are rewrites without which it was folded in the end, and
    `reason` why the first of them had to be left out.
    """

    facts: GraphFacts
    nodes_before: int
    initializer_bytes_before: int
    kept: bool
    prepared: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    reason: str = ""


def fold_graph(request: FoldRequest) -> FoldMetrics:
    """Write the folded model.onnx; external data stays as it is, and is to get a second name in the folder."""
    source = load_graph(request.model)
    before = read_facts(source)
    prepared, done = normalise(source, request.model.parent)
    if correct_outputs(prepared, request.dims):
        done += ("shapes of outputs corrected",)
    exported = Exported(request.model, prepared, request.golden)
    folded, left_out, reason = _folded(prepared, exported, request)
    (request.folder / "model.onnx").write_bytes(folded.SerializeToString(deterministic=True))
    return FoldMetrics(
        facts=read_facts(folded),
        nodes_before=before.nodes,
        initializer_bytes_before=before.initializer_bytes,
        kept=folded is not prepared,
        prepared=done,
        left_out=left_out,
        reason=reason,
    )


def _folded(
    prepared: "onnx.ModelProto", exported: Exported, request: FoldRequest
) -> "tuple[onnx.ModelProto, tuple[str, ...], str]":
    """Fold with as many rewrites as leave what the graph computes; else give the prepared graph."""
    reasons: list[str] = []
    tries = {"none": 0, "polygraphy": 1, "graphsurgeon": len(_REWRITES)}[request.tool]
    for first in range(tries):
        folded, reason = _tried(prepared, exported, request, _REWRITES[first:])
        if not reason:
            return folded, _REWRITES[:first], reasons[0] if reasons else ""
        reasons.append(reason)
    return prepared, ("all of it",) if reasons else (), reasons[0] if reasons else ""


def _tried(
    prepared: "onnx.ModelProto", exported: Exported, request: FoldRequest, rewrites: Collection[str]
) -> "tuple[onnx.ModelProto, str]":
    try:
        folded = _fold(prepared, request, rewrites)
    except StepError as error:
        return prepared, error.message
    except Exception as error:  # noqa: BLE001 - the boundary: whatever a tool raises on a graph that it does not take
        words = " ".join(str(error).split())[:_MESSAGE_LENGTH]
        return prepared, f"{request.tool} does not take the graph: {words}"
    return folded, exported.refusal(folded)


def _fold(model: "onnx.ModelProto", request: FoldRequest, rewrites: Collection[str]) -> "onnx.ModelProto":
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    with contextlib.chdir(request.model.parent):  # what is folded may read external data
        made = _fold_once(made, request.tool, rewrites)
        while BRANCHES in rewrites and take_constant_branches(made.graph):
            made = _fold_once(made, request.tool, rewrites)
    name_all_nodes(made.graph)
    return made


def _fold_once(made: "onnx.ModelProto", tool: Tool, rewrites: Collection[str]) -> "onnx.ModelProto":
    import onnx_graphsurgeon as gs

    if SHAPES in rewrites:
        fold_shapes(made)
    if tool == "polygraphy":
        graph = gs.import_onnx(_by_polygraphy(made))
    else:
        graph = gs.import_onnx(made)
        _by_graphsurgeon(graph, frozenset(random_outputs(made.graph)), bodies=BODIES in rewrites)
    folded = cast("onnx.ModelProto", gs.export_onnx(graph.cleanup().toposort()))
    give_outputs_nodes(folded)
    sort_nodes(folded.graph)
    drop_value_info(folded.graph)
    return folded


def _by_graphsurgeon(graph: "gs.Graph", random: Collection[str], *, bodies: bool) -> None:
    """Fold a graph, then its bodies: GraphSurgeon itself forgets there what is to be excluded.

    Its folding of shapes stays off: it brings a product of floats to integers where casts stand around it, ignores the
    ends of a `Shape`, and believes noted shapes. Its way with If nodes loses tensors.
    """

    def excluded(node: "gs.Node") -> bool:
        standard = node.domain in (None, "", "ai.onnx", "ai.onnx.ml")
        return not standard or node.op in MAKING_SEQUENCES or any(each.name in random for each in node.outputs)

    graph.fold_constants(
        fold_shapes=False,
        recurse_subgraphs=False,
        recurse_functions=False,
        flatten_subgraphs=False,
        size_threshold=SIZE_THRESHOLD,
        should_exclude_node=excluded,
    )
    for body in graph.subgraphs() if bodies else ():
        _by_graphsurgeon(body, random, bodies=True)


def _by_polygraphy(model: "onnx.ModelProto") -> "onnx.ModelProto":
    from polygraphy.backend.onnx import fold_constants

    found = next(iter(random_outputs(model.graph)), None)
    if found is not None:
        raise StepError(f"Polygraphy would make a constant of {found!r}, which is random", "use {with: graphsurgeon}")
    return cast("onnx.ModelProto", fold_constants(model, fold_shapes=False, size_threshold=SIZE_THRESHOLD))
