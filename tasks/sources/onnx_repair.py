"""Try a quantised graph with some of its nodes in float, and write the one that was chosen (in a worker).

A switch in front of every dequantised input chooses between what the Q/DQ pair gives and the float tensor before it:
the graph is opened once, and a trial costs no more than running it. `Where` copies what it chooses, so a trial computes
exactly what the written graph will.
"""

import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.core.errors import StepError
from tasks.core.frozen import Frozen
from tasks.core.metrics import compare, worst
from tasks.core.tensors import Tensors, load_batches, save_batches
from tasks.runtimes.onnxruntime_errors import plain_errors
from tasks.runtimes.onnxruntime_session import open_unoptimised
from tasks.sources.float_search import Candidate, CurvePoint
from tasks.sources.handed_back import check_handed_back
from tasks.sources.node_roles import Roles
from tasks.sources.onnx_graph import load_graph
from tasks.sources.onnx_qdq import DEQUANTIZE, QuantizedNode, bypass, drop_unread, name_nodes, named, quantized_nodes
from tasks.sources.typed_metrics import TypedMetrics, typed_metrics

if TYPE_CHECKING:
    import onnx
    import onnxruntime

TrialSet = Literal["search", "confirm"]
SETS: tuple[TrialSet, ...] = ("search", "confirm")  # golden batches 0 and 1
_SWITCH = "trtflow_float_"


class RepairOpening(Frozen):
    """A quantised graph, the two golden batches, and the source framework's outputs on them."""

    model: Path
    golden: Path
    expected: Path


class RepairTurn(Frozen):
    """Run with these nodes in float: on the golden set `on`, or on the batches of `feeds`, writing `outputs`."""

    floated: tuple[str, ...]
    on: TrialSet = "search"
    feeds: Path | None = None
    outputs: Path | None = None


class TrialError(Frozen):
    """The worst error over the outputs, against the source framework."""

    rel_l2: float
    cosine: float


class RepairReply(Frozen):
    """The nodes that can be floated (told once, at the opening), or the error on a golden set."""

    candidates: tuple[Candidate, ...] = ()
    error: TrialError | None = None


class RepairReport(Frozen):
    """What was floated, what it brought, and how it was found.

    `before` and `after` are errors by golden set: the search looked at the one, the other confirmed. The metrics are
    None where the goal did not ask for one, or another bound had failed already.
    """

    quantized_nodes: int
    floated: tuple[Candidate, ...]
    before: dict[TrialSet, TrialError]
    after: dict[TrialSet, TrialError]
    metric_before: float | None
    metric_after: float | None
    curve: tuple[CurvePoint, ...]
    trials: int
    seconds: float


class ApplyRequest(Frozen):
    """Float these nodes of a quantised graph."""

    model: Path
    floated: tuple[str, ...]
    folder: Path


class RepairedMetrics(TypedMetrics):
    """A repaired graph."""

    repair: RepairReport


def try_repairs(opening: RepairOpening) -> Generator[RepairReply, RepairTurn, None]:
    """Judge one set of floated nodes a turn."""
    graph = _Switched(opening.model)
    golden = dict(zip(SETS, load_batches(opening.golden), strict=True))
    expected = dict(zip(SETS, load_batches(opening.expected), strict=True))
    reply = RepairReply(candidates=graph.candidates)
    while True:
        turn = yield reply
        if turn.feeds is not None and turn.outputs is not None:
            save_batches(turn.outputs, graph.run(turn.floated, load_batches(turn.feeds)))
            reply = RepairReply()
        else:
            (outputs,) = graph.run(turn.floated, [golden[turn.on]])
            reply = RepairReply(error=_error(outputs, expected[turn.on]))


def _error(actual: Tensors, expected: Tensors) -> TrialError:
    found = worst(compare(actual, expected).values())
    return TrialError(rel_l2=found.rel_l2, cosine=found.cosine)


class _Switched:
    """The graph with its switches, open on ONNX Runtime, unoptimised."""

    def __init__(self, model: Path) -> None:
        graph = load_graph(model)
        name_nodes(graph.graph)  # the quantiser's own nodes may have none
        self.nodes = quantized_nodes(graph)
        roles, nodes = Roles(graph), named(graph)
        self.candidates = tuple(
            Candidate(name=node.name, op_type=node.op_type, role=roles.of(nodes[node.name], node.name))
            for node in self.nodes
            if node.inputs
        )
        path = Path(tempfile.mkdtemp()) / "switched.onnx"
        _compute_weights(graph, path, model.parent)
        _insert_switches(graph, self.nodes)
        path.write_bytes(graph.SerializeToString())
        self._session: onnxruntime.InferenceSession = open_unoptimised(path, weights=model.parent)
        self._outputs = [output.name for output in self._session.get_outputs()]

    def run(self, floated: Sequence[str], batches: Sequence[Tensors]) -> list[Tensors]:
        """Run every batch with these nodes in float."""
        import numpy as np

        on = set(floated)
        switches = {f"{_SWITCH}{i}": np.array(node.name in on) for i, node in enumerate(self.nodes) if node.inputs}
        with plain_errors("running the graph"):
            results = [self._session.run(self._outputs, {**feeds, **switches}) for feeds in batches]
        return [dict(zip(self._outputs, values, strict=True)) for values in results]


def _compute_weights(model: "onnx.ModelProto", path: Path, weights: Path) -> None:
    """Put what the pairs make of constant weights in their place: else every trial would round all weights again."""
    import onnx

    constants = {tensor.name for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    pairs = {
        node.output[0]: (makers[node.input[0]], node)
        for node in model.graph.node
        if node.op_type == DEQUANTIZE and node.input[0] in makers and makers[node.input[0]].input[0] in constants
    }
    if not pairs:
        return
    alone = onnx.ModelProto()
    alone.CopyFrom(model)
    for part in (alone.graph.node, alone.graph.input, alone.graph.output):
        del part[:]
    alone.graph.node.extend({node.output[0]: node for pair in pairs.values() for node in pair}.values())
    alone.graph.output.extend(onnx.ValueInfoProto(name=name) for name in pairs)
    path.write_bytes(alone.SerializeToString())
    values = open_unoptimised(path, weights=weights).run(list(pairs), {})
    _replace_nodes(model, [node for node in model.graph.node if node.output[0] not in pairs])
    drop_unread(model.graph, initializers=False)
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(value, name) for name, value in zip(pairs, values, strict=True)
    )


def _replace_nodes(model: "onnx.ModelProto", nodes: "Sequence[onnx.NodeProto]") -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]  # they go when the field is cleared
    del model.graph.node[:]
    model.graph.node.extend(copies)


def _insert_switches(model: "onnx.ModelProto", nodes: Sequence[QuantizedNode]) -> None:
    """Give each node that can be floated a boolean input, true for float."""
    from onnx import TensorProto, helper

    by_name = named(model)
    before: dict[str, list[onnx.NodeProto]] = {}
    for index, node in enumerate(nodes):
        if not node.inputs:
            continue
        switch = f"{_SWITCH}{index}"
        model.graph.input.append(helper.make_tensor_value_info(switch, TensorProto.BOOL, []))
        consumer = by_name[node.name]
        for pair in node.inputs:
            chosen = f"{switch}_{pair.position}"
            inputs = [switch, pair.source, consumer.input[pair.position]]
            before.setdefault(consumer.output[0], []).append(helper.make_node("Where", inputs, [chosen]))
            consumer.input[pair.position] = chosen
    ordered = [each for node in model.graph.node for each in (*before.get(node.output[0], ()), node)]
    _replace_nodes(model, ordered)


def apply_repair(request: ApplyRequest) -> TypedMetrics:
    """Write the model.onnx whose chosen nodes compute in float."""
    model = load_graph(request.model)
    name_nodes(model.graph)
    bypass(model, set(request.floated))
    check_handed_back(model, load_graph(request.model), "the repair")
    typed = typed_metrics(model)
    if not typed.computes_quantized:
        raise StepError(
            "the repair reaches its goal only with every convolution and matrix product in float: nothing is quantised",
            "aim lower, or take this precision out of `precisions`",
        )
    (request.folder / "model.onnx").write_bytes(model.SerializeToString())
    return typed
