"""Roles of nodes: alike in repeated blocks, different where the weights or the surroundings differ."""

from typing import Any

import numpy as np
from onnx import helper

from tasks.sources.node_roles import Roles
from tests.projects import graph, value


def test_nodes_of_repeated_blocks_share_a_role_and_others_do_not() -> None:
    nodes, source = [], "x"
    weights: dict[str, np.ndarray[Any, Any]] = {}
    for block in range(4):
        up, down = f"up_{block}", f"down_{block}"
        weights |= {up: np.zeros((4, 8), np.float32), down: np.zeros((8, 4), np.float32)}
        nodes += [
            helper.make_node("QuantizeLinear", [source, "scale", "zero"], [f"q{block}"]),
            helper.make_node("DequantizeLinear", [f"q{block}", "scale", "zero"], [f"d{block}"]),
            helper.make_node("MatMul", [f"d{block}", up], [f"u{block}"], name=f"node_MatMul_{7 * block}"),
            helper.make_node("Relu", [f"u{block}"], [f"r{block}"], name=f"relu_{block}"),
            helper.make_node("MatMul", [f"r{block}", down], [f"y{block}"], name=f"node_MatMul_{7 * block + 3}"),
        ]
        source = f"y{block}"
    model = graph(
        nodes,
        [value("x", [2, 4])],
        [value(source, [2, 4])],
        **weights,
        scale=np.array(1, np.float32),
        zero=np.array(0, np.int8),
    )
    roles = Roles(model)
    ups, downs = (
        [roles.of(node, node.name) for node in model.graph.node if node.input[-1].startswith(which)]
        for which in ("up", "down")
    )
    assert ups[1].startswith("MatMul node_MatMul 4x8, Relu to MatMul to MatMul")
    assert ups[1].endswith("from MatMul")
    assert set(ups).isdisjoint(downs)
    assert downs[0].startswith("MatMul node_MatMul 8x4, MatMul to Relu")
    assert roles.of(model.graph.node[2], "") != ups[1]  # the first block reads the input
