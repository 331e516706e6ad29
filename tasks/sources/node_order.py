"""Bring the nodes of a graph into an order in which each reads only what stands before it (in a worker).

Libraries sort nodes too, and some of them forget what the bodies of If, Loop and Scan read from around them.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from tasks.sources.onnx_graph import bodies_of

if TYPE_CHECKING:
    import onnx


def sort_nodes(graph: "onnx.GraphProto") -> bool:
    """Sort the nodes of a graph where they are not sorted, at any depth; a cycle stays for the checker to find."""
    changed = [sort_nodes(body) for node in graph.node for body in bodies_of(node)]
    if _is_sorted(graph):
        return any(changed)
    replace_nodes(graph, [graph.node[index] for index in _order(graph)])
    return True


def reads_of(node: "onnx.NodeProto") -> set[str]:
    """Tensors that a node reads: its own inputs, and what its bodies take from around them."""
    names = {name for name in node.input if name}
    for body in bodies_of(node):
        inside = {value.name for value in (*body.input, *body.initializer)}
        inside |= {name for inner in body.node for name in inner.output}
        read = {name for inner in body.node for name in reads_of(inner)} | {value.name for value in body.output}
        names |= read - inside
    return names


def replace_nodes(graph: "onnx.GraphProto", nodes: "Iterable[onnx.NodeProto]") -> None:
    """Give a graph other nodes: the field is emptied at once, since each removal alone searches it from its start."""
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)


def _is_sorted(graph: "onnx.GraphProto") -> bool:
    later = {name for node in graph.node for name in node.output if name}
    for node in graph.node:
        if not later.isdisjoint(reads_of(node)):
            return False
        later.difference_update(node.output)
    return True


def _order(graph: "onnx.GraphProto") -> list[int]:
    """Indices of the nodes, each behind the makers of what it reads, else as they stand."""
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    waits = [{makers[name] for name in reads_of(node) if name in makers} for node in graph.node]
    order: list[int] = []
    state = [0] * len(waits)  # 1: its makers are being placed, 2: placed
    for first in range(len(waits)):
        stack = [first]
        while stack:
            index = stack[-1]
            before = [each for each in sorted(waits[index], reverse=True) if state[each] == 0]
            if state[index] == 0 and before:
                state[index] = 1
                stack += before
            elif state[index] == 1 and before:
                stack += before
            else:
                stack.pop()
                if state[index] != 2:  # noqa: PLR2004 - placed
                    state[index] = 2
                    order.append(index)
    return order
