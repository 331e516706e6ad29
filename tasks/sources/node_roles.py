"""What nodes of repeated blocks have in common, such as all feed-forward outputs of an encoder (in a worker).

The name without its numbers is not enough: the exporter calls every linear layer `node_MatMul_<number>`. So a role is
also the shape of the weights, and the operators around the node.
"""

import re
from typing import TYPE_CHECKING

from tasks.sources.onnx_qdq import DEQUANTIZE, QUANTIZE

if TYPE_CHECKING:
    import onnx

# Query and key of an attention part from its value after so many operators: before it, all are projections.
_AHEAD, _BEHIND = 6, 1
_PASSED_BY = (QUANTIZE, DEQUANTIZE)


class Roles:
    """Roles of the nodes of one graph; Q/DQ pairs in it count as not there."""

    def __init__(self, model: "onnx.ModelProto") -> None:
        self._shapes = {tensor.name: "x".join(map(str, tensor.dims)) for tensor in model.graph.initializer}
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def of(self, node: "onnx.NodeProto", name: str) -> str:
        """Role of a node that goes by `name`: `MatMul node_MatMul 384x1536, Add to Gelu to MatMul`."""
        weights = " ".join(shape for source in node.input if (shape := self._shapes.get(self._behind_pairs(source))))
        ahead = " to ".join(self._levels([node], _AHEAD, forward=True))
        behind = " from ".join(self._levels([node], _BEHIND, forward=False))
        parts = f"{node.op_type} {re.sub('[_.]?[0-9]+', '', name)} {weights}".strip()
        return ", ".join(filter(None, (parts, ahead, behind and f"from {behind}")))

    def _levels(self, nodes: "list[onnx.NodeProto]", count: int, *, forward: bool) -> list[str]:
        levels = []
        for _ in range(count):
            nodes = self._next(nodes, forward=forward)
            if not nodes:
                break
            levels.append("+".join(sorted({node.op_type for node in nodes})))
        return levels

    def _next(self, nodes: "list[onnx.NodeProto]", *, forward: bool) -> "list[onnx.NodeProto]":
        found: dict[str, onnx.NodeProto] = {}
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            for near in self._ahead(node) if forward else self._before(node):
                if near.op_type in _PASSED_BY:
                    waiting.append(near)
                else:
                    found[near.output[0]] = near
        return list(found.values())

    def _ahead(self, node: "onnx.NodeProto") -> "list[onnx.NodeProto]":
        return [reader for name in node.output for reader in self._readers.get(name, [])]

    def _before(self, node: "onnx.NodeProto") -> "list[onnx.NodeProto]":
        return [self._makers[name] for name in node.input if name in self._makers]

    def _behind_pairs(self, name: str) -> str:
        while name in self._makers and self._makers[name].op_type in _PASSED_BY:
            name = self._makers[name].input[0]
        return name
