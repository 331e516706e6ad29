"""Put the branch that an If node always takes in its place (in a worker)."""

from typing import TYPE_CHECKING

from tasks.sources.node_order import replace_nodes
from tasks.sources.onnx_normalise import free_name, graphs_of, tensor_names

if TYPE_CHECKING:
    import onnx


def take_constant_branches(graph: "onnx.GraphProto") -> int:
    """Replace If nodes whose condition is an initializer; returns how many. Each output of a body has a node."""
    from onnx import numpy_helper

    constants = {tensor.name: tensor for tensor in graph.initializer if not tensor.external_data}
    taken = tensor_names(graph)
    nodes: list[onnx.NodeProto] = []
    count = 0
    for node in graph.node:
        if node.op_type != "If" or node.domain or node.input[0] not in constants:
            nodes.append(node)
            continue
        chosen = "then_branch" if numpy_helper.to_array(constants[node.input[0]]).any() else "else_branch"
        body = next(attribute.g for attribute in node.attribute if attribute.name == chosen)
        nodes += _inlined(body, node, taken)
        graph.initializer.extend(body.initializer)
        count += 1
    if count:
        replace_nodes(graph, nodes)
    return count


def _inlined(body: "onnx.GraphProto", node: "onnx.NodeProto", taken: set[str]) -> "list[onnx.NodeProto]":
    """The nodes of a body under names that are free around it; its outputs are those of the If node."""
    import onnx

    renamed: dict[str, str] = {}
    inner = [name for each in body.node for name in each.output if name]
    for name in (*inner, *(tensor.name for tensor in body.initializer)):
        renamed[name] = free_name(name, taken)
        taken.add(renamed[name])
    _rename(body, renamed)
    made = list(body.node)
    pairs = zip(node.output, body.output, strict=True)
    return [*made, *(onnx.helper.make_node("Identity", [has.name], [name]) for name, has in pairs if name)]


def _rename(graph: "onnx.GraphProto", renamed: dict[str, str]) -> None:
    """Rename tensors that a graph makes, wherever it and its bodies name them."""
    for each in graphs_of(graph):
        for node in each.node:
            for names in (node.input, node.output):
                names[:] = [renamed.get(name, name) for name in names]
        for value in (*each.output, *(graph.initializer if each is graph else ())):
            value.name = renamed.get(value.name, value.name)
