"""What a worker process does to tell of an engine's layers."""

from pathlib import Path

from tasks.core.errors import CannotRun
from tasks.core.feeds import resize
from tasks.core.frozen import Frozen
from tasks.core.signature import Signature
from tasks.core.tensors import load_batches
from tasks.runtimes.base import LayerTime, OpenOptions, load_model
from tasks.runtimes.engine_layers import Graph, LayersMetrics, join, read_inspection, summary
from tasks.runtimes.engines import open_engine
from tasks.runtimes.gpu_session import GpuSession

LAYERS, INSPECTOR = "layers.json", "inspector.json"


class LayersRequest(Frozen):
    """Time the layers of an engine at the opt of its dims, on what `feeds` holds; `model` is what it was built from."""

    engine: Path
    card: Path
    feeds: Path
    model: Path
    signature: Signature
    folder: Path


def time_layers(request: LayersRequest) -> LayersMetrics:
    """Write layers.json, and what the library itself told as inspector.json."""
    (first, *_), at = load_batches(request.feeds), request.signature.sizes("opt")
    feeds = resize(first, request.signature, at) if at else first
    with open_engine(request.engine, request.card, OpenOptions()).session as session:
        session.infer(feeds)
        times = session.layers()
        told = session.inspection() if isinstance(session, GpuSession) else ""
    if not times:
        raise CannotRun("its runtime times no layers")
    if told:
        (request.folder / INSPECTOR).write_text(told, encoding="utf-8")
    metrics = write_layers(request.folder / LAYERS, told, times, graph_of(request.model))
    return metrics.model_copy(update={"at": at})


def write_layers(path: Path, told: str, times: tuple[LayerTime, ...], graph: Graph) -> LayersMetrics:
    """Join both, keep the table, and sum it up."""
    inspected = read_inspection(told)
    table = join(inspected, times, graph)
    path.write_text(table.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return summary(table, inspected, times)


def graph_of(model: Path) -> Graph:
    """The nodes of an ONNX graph by which its engine's layers are named."""
    nodes = load_model(model, external_data=False).graph.node
    return Graph(operators={node.name: node.op_type for node in nodes if node.name})
