"""Where a precision's error is made: every inner tensor of a typed graph against the folded one's (in a worker)."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.frozen import Frozen
from tasks.core.metrics import Bounded, OutputError, compare
from tasks.core.tensors import Tensors, load_batches
from tasks.runtimes.base import load_model
from tasks.runtimes.inner import InnerGraph, in_slices
from tasks.runtimes.judge import joined
from tasks.runtimes.onnx_origin import modules_of

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

TENSORS = "where.json"
MOST = 10
# A mask holds the most negative number of its type or minus infinity; a narrower type has others, and masks as well.
_MASK, _MASK_IN_HALF = 1e30, 6e4


class AttributionRequest(Frozen):
    """Three forms of a graph, each made from the one before, what to run them on, and the rel_l2 that is too much."""

    exported: Path
    folded: Path
    typed: Path
    feeds: Path
    bound: float | None
    folder: Path


class TensorError(Frozen):
    """How far one tensor is off, and what makes it: a node of the folded graph, in a module of the source.

    `added` is how much larger rel_l2 is than that of any tensor from which this one is computed.
    """

    name: str
    op_type: str
    node: str
    module: str
    rel_l2: Bounded
    cosine: Bounded
    max_abs_error: Bounded
    finite: bool
    added: Bounded


class Attribution(Frozen):
    """Every tensor that both graphs have, in the order of the typed graph, and those that have no counterpart there."""

    bound: float | None
    tensors: tuple[TensorError, ...]
    not_comparable: tuple[str, ...]


class WhereMetrics(Frozen):
    """The attribution in short: the first tensor beyond the bound, and those that added most."""

    compared: int
    not_comparable: int
    bound: float | None
    first_bad: TensorError | None
    most_added: tuple[TensorError, ...]


@dataclass(frozen=True)
class _Maker:
    """The node that makes a tensor."""

    op_type: str
    node: str


def attribute(request: AttributionRequest) -> WhereMetrics:
    """Write where.json."""
    folded, typed = load_model(request.folded, external_data=False), load_model(request.typed, external_data=False)
    errors, without = _errors(request)
    makers = {name: _Maker(node.op_type, node.name) for node in folded.graph.node for name in node.output}
    modules = modules_of(load_model(request.exported, external_data=False))
    sources = _sources(typed.graph, errors.keys())
    tensors = tuple(
        TensorError(
            name=name,
            op_type=makers[name].op_type,
            node=makers[name].node,
            module=modules.get(name, ""),
            added=error.rel_l2 - max((errors[source].rel_l2 for source in sources[name]), default=0.0),
            **error.model_dump(include={"max_abs_error", "rel_l2", "cosine", "finite"}),
        )
        for name, error in errors.items()
    )
    found = Attribution(bound=request.bound, tensors=tensors, not_comparable=without)
    (request.folder / TENSORS).write_text(found.model_dump_json(indent=1), encoding="utf-8")
    return _summary(found)


def _summary(found: Attribution) -> WhereMetrics:
    bad = (tensor for tensor in found.tensors if found.bound is not None and tensor.rel_l2 > found.bound)
    added = sorted((tensor for tensor in found.tensors if tensor.added > 0), key=lambda tensor: -tensor.added)
    return WhereMetrics(
        compared=len(found.tensors),
        not_comparable=len(found.not_comparable),
        bound=found.bound,
        first_bad=next(bad, None),
        most_added=tuple(added[:MOST]),
    )


def _errors(request: AttributionRequest) -> tuple[dict[str, OutputError], tuple[str, ...]]:
    """The error of every tensor that can be compared, and the names of those that cannot."""
    batches, scratch = load_batches(request.feeds), request.folder / "scratch"
    folded, typed = InnerGraph(request.folded, scratch / "folded"), InnerGraph(request.typed, scratch / "typed")
    wanted = folded.names()
    known = set(wanted)
    errors: dict[str, OutputError] = {}

    def run(names: Sequence[str]) -> int:
        actual, expected = list(typed.run(names, batches)), list(folded.run(names, batches))
        errors.update(_compared(names, actual, expected))
        return max(sum(batch[name].nbytes for batch in (*actual, *expected)) for name in names)

    in_slices([name for name in typed.names() if name in known], run)
    return errors, tuple(name for name in wanted if name not in errors)


def _compared(
    names: Sequence[str], actual: Sequence[Tensors], expected: Sequence[Tensors]
) -> Iterator[tuple[str, OutputError]]:
    """The error of each tensor over all batches; one of another shape, or without finite values, has none."""
    import numpy as np

    for name in names:
        pairs = [(ours[name], theirs[name]) for ours, theirs in zip(actual, expected, strict=True)]
        if any(ours.shape != theirs.shape for ours, theirs in pairs):
            continue
        pairs = [_without_masks(ours, theirs) for ours, theirs in pairs]
        if all(np.isfinite(theirs).all() for _, theirs in pairs):
            ours, theirs = (joined([{name: value} for value in side]) for side in zip(*pairs, strict=True))
            yield name, compare(ours, theirs)[name]


def _without_masks(
    actual: "NDArray[np.generic]", expected: "NDArray[np.generic]"
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Both in float64, with zeros where both mask: one such number would outweigh all others."""
    import numpy as np

    ours, theirs = actual.astype(np.float64), expected.astype(np.float64)
    masked = (np.abs(theirs) >= _MASK) & (np.abs(ours) >= _MASK_IN_HALF) & (np.sign(theirs) == np.sign(ours))
    ours[masked] = theirs[masked] = 0.0
    return ours, theirs


def _sources(graph: "onnx.GraphProto", compared: Collection[str]) -> dict[str, frozenset[str]]:
    """The nearest compared tensors that each tensor is computed from, be it through Q/DQ, casts or what else is new."""
    sources: dict[str, frozenset[str]] = {}
    for node in graph.node:
        read = (frozenset({name}) if name in compared else sources.get(name, frozenset()) for name in _read(node))
        sources |= dict.fromkeys(node.output, frozenset().union(*read))
    return sources


def _read(node: "onnx.NodeProto") -> Iterator[str]:
    """Names that a node reads, also from within its branches and loop bodies."""
    yield from node.input
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            for other in inner.node:
                yield from _read(other)
