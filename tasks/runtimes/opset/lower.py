"""Bring a graph to an older opset, so that it computes the same, or refuse it by the name of a node (in a worker).

`onnx.version_converter` cannot take Reduce*, Resize, Gelu and GroupNormalization down, and drops what it does not know.
Here each version of an operator is taken to the one before it, by the rule that `rules` has for it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import CannotRun
from tasks.runtimes.external_data import byte_length, external_tensors, read_in
from tasks.runtimes.opset.functions import expand, schema_body
from tasks.runtimes.opset.inference import learn, without_weights
from tasks.runtimes.opset.parser_forms import parser_form
from tasks.runtimes.opset.rules import EXPANDED, RULES
from tasks.runtimes.opset.scope import DEFAULT_DOMAINS, Scope, called, newer
from tasks.runtimes.opset.types import check_types
from tasks.runtimes.opset.unused import drop_unused

if TYPE_CHECKING:
    import onnx

# Bytes of external data that may say axes, sizes or places.
_SMALL = 4096


def opset_of(model: "onnx.ModelProto") -> int:
    """Version of the default domain that a graph is written in."""
    versions: list[int] = [entry.version for entry in model.opset_import if entry.domain in DEFAULT_DOMAINS]
    return versions[0] if versions else 0


def newest_opset(model: "onnx.ModelProto") -> int:
    """The same, or that of a function of the model where it is newer."""
    imports = (entry for function in model.functions for entry in function.opset_import)
    versions: list[int] = [entry.version for entry in imports if entry.domain in DEFAULT_DOMAINS]
    return max(opset_of(model), *versions, 0)


def lower_opset(model: "onnx.ModelProto", opset: int, ir_version: int, folder: Path | None = None) -> "onnx.ModelProto":
    """Rewrite `model` in place to at most `opset`, 17 or newer; raise CannotRun where that cannot be.

    `folder` is where its external data lies: what is small enough to be an axis or a size is taken into the model.
    """
    model.ir_version = min(model.ir_version, ir_version)
    newer_than = newest_opset(model) > opset
    if newer_than and folder is not None:
        read_in((tensor for tensor in external_tensors(model) if byte_length(tensor) <= _SMALL), folder)
    _Lowering(model, opset).graph(opset_of(model), infer=newer_than)
    if not newer_than:
        return model
    del model.functions[:]
    drop_unused(model.graph)
    for entry in model.opset_import:
        entry.version = opset if entry.domain in DEFAULT_DOMAINS else entry.version
    check_types(model, opset)
    _check(model, opset)
    return model


class _Lowering:
    """One model on its way to an older opset."""

    def __init__(self, model: "onnx.ModelProto", opset: int) -> None:
        self._model, self._opset = model, opset
        self._local: dict[tuple[str, str, str], onnx.FunctionProto] = {}

    def graph(self, now: int, *, infer: bool) -> None:
        """Rewrite the graph of the model; without `infer`, only what no type and no function matters to."""
        graph = self._model.graph
        scope = Scope(graph, set(_names(graph)))
        if infer:
            self._local = {(body.domain, body.name, body.overload): body for body in self._model.functions}
            learn(scope, self._model)
        self._body(graph, scope, now)

    def _body(self, graph: "onnx.GraphProto", scope: Scope, now: int) -> None:
        rewritten = [new for node in graph.node for new in self._with_bodies(node, scope, now)]
        del graph.node[:]
        graph.node.extend(rewritten)

    def _with_bodies(self, node: "onnx.NodeProto", scope: Scope, now: int) -> "Iterator[onnx.NodeProto]":
        """Lower the bodies that a node has, then the node."""
        for attribute in node.attribute:
            for body in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
                self._body(body, scope.inside(body), now)
        yield from self._lowered(node, scope, now)

    def _lowered(self, node: "onnx.NodeProto", scope: Scope, now: int) -> "Iterator[onnx.NodeProto]":
        """Nodes that say in the older opset what `node` says in opset `now`."""
        from onnx import defs

        function = self._local.get((node.domain, node.op_type, node.overload))
        if function is not None:
            yield from self._expanded(node, scope, function)
        elif node.domain not in DEFAULT_DOMAINS:
            yield node
        elif not defs.has(node.op_type, now, ""):
            raise newer(node, f"opset {now} has no such operator")
        else:
            yield from self._older(node, scope, defs.get_schema(node.op_type, now, ""))

    def _older(self, node: "onnx.NodeProto", scope: Scope, schema: "onnx.defs.OpSchema") -> "Iterator[onnx.NodeProto]":
        since = schema.since_version
        if since <= self._opset:
            yield from parser_form(node, scope)
        elif (node.op_type, since) in RULES:
            for made in RULES[node.op_type, since](node, scope):
                yield from self._lowered(made, scope, since - 1)
        elif (node.op_type, since) in EXPANDED:
            yield from self._expanded(node, scope, schema_body(node, schema, scope))
        else:
            raise newer(node, f"it came with opset {since}")

    def _expanded(self, node: "onnx.NodeProto", scope: Scope, body: "onnx.FunctionProto") -> "Iterator[onnx.NodeProto]":
        now = next((entry.version for entry in body.opset_import if entry.domain in DEFAULT_DOMAINS), self._opset)
        for made in expand(node, body, scope, self._model):
            yield from self._with_bodies(made, scope, now)


def _names(graph: "onnx.GraphProto") -> Iterator[str]:
    """Every name in a graph and in the bodies inside it."""
    yield from (value.name for value in (*graph.input, *graph.output, *graph.value_info))
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from (called(node), *node.input, *node.output)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _names(attribute.g)


def _check(model: "onnx.ModelProto", opset: int) -> None:
    from onnx import checker

    try:
        checker.check_model(without_weights(model))
    except checker.ValidationError as error:
        raise CannotRun(
            f"the graph cannot be said in opset {opset}, which this TensorRT reads: {str(error).splitlines()[0]}",
            "export with an older opset, or leave this engine out",
        ) from error
