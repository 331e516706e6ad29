"""Check what a library made of a graph before anything uses it (in a worker)."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import CannotRun, StepError
from tasks.runtimes.onnxruntime_session import open_unoptimised
from tasks.sources.fold_check import invalid
from tasks.sources.node_order import sort_nodes
from tasks.sources.onnx_graph import TensorFacts, load_graph, read_facts
from tasks.sources.onnx_normalise import free_name, tensor_names
from tasks.sources.onnx_qdq import read_inside

if TYPE_CHECKING:
    import onnx

_TAIL = "_passed_on"
_MESSAGE_LENGTH = 300


def part_outputs(path: Path) -> dict[str, str]:
    """Give outputs that are inputs a name of their own, in place: `{their name: the new one}`.

    A tensor has one name, so no node can stand between such an input and the output, and libraries lose the output.
    """
    import onnx

    model = load_graph(path)
    inputs, taken = {value.name for value in model.graph.input}, tensor_names(model.graph)
    parted: dict[str, str] = {}
    for value in model.graph.output:
        if value.name in inputs:
            parted[value.name] = new = free_name(f"{value.name}{_TAIL}", taken)
            taken.add(new)
            node = onnx.helper.make_node("Identity", [value.name], [new], name=new)
            model.graph.node.append(node)
            value.name = new
    if parted:
        path.write_bytes(model.SerializeToString())
    return parted


def join_outputs(model: "onnx.ModelProto", parted: dict[str, str]) -> None:
    """Undo `part_outputs`, with whatever a library put between an input and its output."""
    names = {new: old for old, new in parted.items()}
    for value in model.graph.output:
        value.name = names.get(value.name, value.name)
    if names:
        _drop_dead(model.graph, set(names))


def _drop_dead(graph: "onnx.GraphProto", dead: set[str]) -> None:
    """Remove the nodes that give these tensors, and those that only they read."""
    outputs = {value.name for value in graph.output}
    while dead:
        gone = [node for node in graph.node if dead.issuperset(node.output)]
        for node in gone:
            graph.node.remove(node)
        read = {name for node in graph.node for name in node.input} | read_inside(graph) | outputs
        dead = {name for node in gone for name in node.input} - read if gone else set()


def check_handed_back(model: "onnx.ModelProto", source: "onnx.ModelProto", tool: str) -> None:
    """Refuse a graph that is invalid or has another interface; dims that it only renamed get their names back."""
    before, after = read_facts(source), read_facts(model)
    for what, had, has in (("inputs", before.inputs, after.inputs), ("outputs", before.outputs, after.outputs)):
        wanted, found = ({name: (t.dtype, len(t.shape)) for name, t in facts.items()} for facts in (had, has))
        if list(wanted) != list(found) or wanted != found:
            raise StepError(f"{tool} changed the {what} of the graph: {_told(has)} instead of {_told(had)}", _CURE)
    for mine, theirs in ((model.graph.input, source.graph.input), (model.graph.output, source.graph.output)):
        kept = {value.name: value for value in theirs}
        for value in mine:
            if value.name in kept:
                value.type.CopyFrom(kept[value.name].type)
    sort_nodes(model.graph)
    reason = invalid(model)
    if reason:
        raise StepError(f"what {tool} made of the graph cannot be used: {reason}", _CURE)


def not_opened(model: "onnx.ModelProto", weights: Path) -> str:
    """Why ONNX Runtime does not open a graph; empty where it does, or only lacks kernels for it."""
    import onnx

    path = Path(tempfile.mkdtemp()) / "made.onnx"
    onnx.save_model(model, str(path))
    try:
        open_unoptimised(path, weights=weights)
    except CannotRun:
        return ""
    except StepError as error:
        return " ".join(error.message.split())[:_MESSAGE_LENGTH]
    return ""


_CURE = "use another precision, or `exclude` the nodes that are named"


def _told(facts: dict[str, TensorFacts]) -> str:
    return ", ".join(f"{name} {tensor.dtype}{list(tensor.shape)}" for name, tensor in facts.items())
