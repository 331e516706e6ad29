"""Read what makes a graph typed (in a worker)."""

from pathlib import Path

from tasks.core.frozen import Frozen
from tasks.sources.onnx_cast import TypedMetrics, typed_metrics
from tasks.sources.onnx_graph import load_graph


class TypedRequest(Frozen):
    """A typed graph to look at."""

    model: Path


def read_typed(request: TypedRequest) -> TypedMetrics:
    """Count casts, Q/DQ nodes and initializers of the lower precision."""
    return typed_metrics(load_graph(request.model))
