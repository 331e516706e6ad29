"""Set the smallest weights of a graph to zero, by magnitude (in a worker)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from tasks.core.errors import StepError
from tasks.core.frozen import Frozen
from tasks.runtimes.external_data import external_tensors, read_in, write_out
from tasks.sources.onnx_graph import GraphFacts, load_graph, read_facts

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.generic]

# 2:4 sparsity as sparse tensor cores take it: of every four consecutive values, two are zero.
RUN, ZEROS = 4, 2
EXTERNAL = "model.onnx.data"
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_REASONS_TOLD = 3


class PruneRequest(Frozen):
    """A graph to prune, to 2:4 or by a share of each tensor's values; exactly one of the two is given."""

    model: Path
    pattern: Literal["2:4"] | None
    sparsity: float | None
    folder: Path


class PruneMetrics(Frozen):
    """Weights that were pruned, those left dense with the reason, and shares of zeros: in the pruned, and in both."""

    facts: GraphFacts
    pruned: tuple[str, ...]
    left_dense: dict[str, str]
    zeros_in_pruned: float
    zeros_overall: float


@dataclass(frozen=True)
class Reduction:
    """The axis along which a node multiplies and adds a weight, and how many values one sum takes from it."""

    axis: int
    length: int


@dataclass
class Uses:
    """What the nodes of a graph do with an initializer: reductions, and the operators that use it otherwise."""

    reductions: set[Reduction] = field(default_factory=set)
    others: set[str] = field(default_factory=set)


@dataclass
class _Counts:
    """Values and zeros."""

    values: int = 0
    zeros: int = 0

    def add(self, array: "Array") -> None:
        self.values += array.size
        self.zeros += int((array == 0).sum())

    @property
    def share(self) -> float:
        return self.zeros / self.values if self.values else 0.0


def prune_graph(request: PruneRequest) -> PruneMetrics:
    """Write the pruned model.onnx; weights that lay in a file beside the model do so again."""
    model = load_graph(request.model)
    # Not by onnx's own reader, which refuses the hard links of a store.
    external = read_in(external_tensors(model), request.model.parent)
    metrics = _prune(model, request)
    if external:
        write_out(external, request.folder / EXTERNAL)
    (request.folder / "model.onnx").write_bytes(model.SerializeToString())
    return metrics.model_copy(update={"facts": read_facts(load_graph(request.folder / "model.onnx"))})


def _prune(model: "onnx.ModelProto", request: PruneRequest) -> PruneMetrics:
    from onnx import numpy_helper

    pruned, left_dense = [], {}
    inside, overall = _Counts(), _Counts()
    uses = uses_of(model.graph)
    for tensor in weights_of(model.graph):
        array = numpy_helper.to_array(tensor)
        reason = why_dense(uses[tensor.name], request)
        zeroed = None if reason else _zeroed(array, uses[tensor.name], request)
        if zeroed is None:
            left_dense[tensor.name] = reason or f"a share of {request.sparsity} of its {array.size} values is not one"
            overall.add(array)
            continue
        tensor.CopyFrom(numpy_helper.from_array(zeroed, tensor.name))
        pruned.append(tensor.name)
        inside.add(zeroed)
        overall.add(zeroed)
    if not pruned:
        raise _nothing(left_dense)
    return PruneMetrics(
        facts=read_facts(model),
        pruned=tuple(sorted(pruned)),
        left_dense=dict(sorted(left_dense.items())),
        zeros_in_pruned=inside.share,
        zeros_overall=overall.share,
    )


def _nothing(left_dense: dict[str, str]) -> StepError:
    told = [f"{name}: {reason}" for name, reason in sorted(left_dense.items())[:_REASONS_TOLD]]
    more = len(left_dense) - len(told)
    reasons = "; ".join([*told, *([f"and {more} more"] if more else [])]) or "the graph has no weights"
    return StepError(
        f"prune changed nothing, as no weight of {', '.join(_WEIGHTED)} could be pruned: {reasons}",
        "take `prune` out of this precision, or use {sparsity: 0.5} where it asks for 2:4",
    )


def weights_of(graph: "onnx.GraphProto") -> "list[onnx.TensorProto]":
    """Floating-point initializers of at least two axes: a bias or a scale has one."""
    from onnx import TensorProto

    floats = {TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
    return [tensor for tensor in graph.initializer if tensor.data_type in floats and len(tensor.dims) > 1]


def uses_of(graph: "onnx.GraphProto") -> dict[str, Uses]:
    """For every weight, what is done with it, also in the bodies of control flow and behind a Transpose."""
    uses = {tensor.name: Uses() for tensor in weights_of(graph)}
    # Which axes of a weight a tensor has: that of a weight itself, or of its transposed.
    views = {tensor.name: (tensor.name, tuple(range(len(tensor.dims)))) for tensor in weights_of(graph)}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in weights_of(graph)}
    for node in _nodes(graph):
        for position, name in enumerate(node.input):
            if name not in views:
                continue
            weight, axes = views[name]
            shape = [shapes[weight][axis] for axis in axes]
            found = _reduction(node, position, shape)
            if found is not None:
                uses[weight].reductions.add(Reduction(axes[found.axis], found.length))
            elif node.op_type in ("Identity", "Transpose"):
                order = _attribute(node, "perm", tuple(reversed(range(len(axes)))))
                views[node.output[0]] = weight, axes if node.op_type == "Identity" else tuple(axes[at] for at in order)
            else:
                uses[weight].others.add(node.op_type)
    for output in graph.output:
        if output.name in views:
            uses[views[output.name][0]].others.add("an output of the graph")
    return uses


def _nodes(graph: "onnx.GraphProto") -> "Iterator[onnx.NodeProto]":
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for body in (*((attribute.g,) if attribute.HasField("g") else ()), *attribute.graphs):
                yield from _nodes(body)


def _reduction(node: "onnx.NodeProto", position: int, shape: Sequence[int]) -> Reduction | None:
    """How a node reduces the input at that position, None where that input is not its weight."""
    match node.op_type, position:
        case "Conv", 1:
            return Reduction(1, shape[1])
        case "ConvTranspose", 1:
            return Reduction(0, shape[0] // _attribute(node, "group", 1))
        case "MatMul", 0 | 1:
            axis = len(shape) - (1 if position == 0 else 2)
            return Reduction(axis, shape[axis])
        case "Gemm", 0 | 1:
            flipped = bool(_attribute(node, "transA" if position == 0 else "transB", 0))
            axis = int(flipped == bool(position))
            return Reduction(axis, shape[axis])
    return None


def _attribute(node: "onnx.NodeProto", name: str, default: Any) -> Any:  # noqa: ANN401 -- whatever the attribute holds
    import onnx

    return next((onnx.helper.get_attribute_value(found) for found in node.attribute if found.name == name), default)


def why_dense(uses: Uses, request: PruneRequest) -> str | None:
    """Why a weight cannot be pruned, None where it can."""
    if uses.others or not uses.reductions:
        return f"it is read by {', '.join(sorted(uses.others)) or 'no node'}"
    if request.pattern is None:
        return None
    axes = sorted({reduction.axis for reduction in uses.reductions})
    if len(axes) > 1:
        return f"nodes share it that reduce along its axes {' and '.join(map(str, axes))}"
    odd = [reduction.length for reduction in uses.reductions if reduction.length % RUN]
    return f"a sum along its axis {axes[0]} takes {min(odd)} values, no multiple of {RUN}" if odd else None


def _zeroed(array: "Array", uses: Uses, request: PruneRequest) -> "Array | None":
    """A copy with its smallest magnitudes at zero, None where the share to prune is less than one value."""
    import numpy as np

    if request.pattern is None:
        assert request.sparsity is not None  # noqa: S101 - exactly one of the two is given
        count = math.floor(round(request.sparsity * array.size, 6))  # 0.29 of 100 is 28.999999999999996
        return _smallest_zeroed(array.reshape(1, -1), count).reshape(array.shape) if count else None
    axis = next(iter(uses.reductions)).axis
    last = np.moveaxis(array, axis, -1)
    zeroed = _smallest_zeroed(last.reshape(-1, RUN), ZEROS).reshape(last.shape)
    return np.ascontiguousarray(np.moveaxis(zeroed, -1, axis))


def _smallest_zeroed(rows: "Array", count: int) -> "Array":
    """Set `count` values of every row to zero; of equal magnitudes, the first."""
    import numpy as np

    zeroed = rows.copy()
    wide = np.float64 if rows.dtype == np.float64 else np.float32  # bfloat16 does not sort by itself
    order = np.argsort(np.abs(rows.astype(wide)), axis=1, kind="stable")
    np.put_along_axis(zeroed, order[:, :count], np.zeros((), rows.dtype), axis=1)
    return zeroed
