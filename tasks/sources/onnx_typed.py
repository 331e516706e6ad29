"""Take a graph whose types are already those of its precision (in a worker)."""

from pathlib import Path
from typing import Literal

from tasks.core.errors import DoesNotApply
from tasks.core.frozen import Frozen
from tasks.sources.onnx_graph import load_graph
from tasks.sources.typed_metrics import TypedMetrics, typed_metrics


class TypedRequest(Frozen):
    """A graph of the store that is typed already, as fp32 or in a way of its own, and the folder that it goes on in."""

    model: Path
    kind: Literal["fp32", "typed"]
    folder: Path


def take_typed(request: TypedRequest) -> TypedMetrics:
    """Count casts, Q/DQ nodes and initializers of the lower precision; the model itself is to be linked."""
    graph = load_graph(request.model)
    typed = typed_metrics(graph)
    if request.kind == "fp32" and typed.facts.typed:
        what = "holds Q/DQ nodes" if typed.facts.quantized else "has most of its weights in a 16-bit type"
        raise DoesNotApply(f"the graph {what}: it is no fp32", "take it as it is: `precisions: [typed]`")
    if request.kind == "typed" and not typed.facts.typed:
        cure = "ask for fp32, or for the precision that it should be brought to"
        raise DoesNotApply("the graph has no precision of its own: neither Q/DQ nodes nor 16-bit weights", cure)
    return typed
