"""Whether an opset's operators take the types that a graph gives them: later versions often differ in nothing else."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from tasks.runtimes.opset.inference import learn
from tasks.runtimes.opset.scope import DEFAULT_DOMAINS, Scope, newer

if TYPE_CHECKING:
    import onnx


def check_types(model: "onnx.ModelProto", opset: int) -> None:
    """Raise CannotRun for a node whose operator does not take or give a type in that opset."""
    scope = Scope(model.graph, set())
    learn(scope, model)
    _check_graph(model.graph, scope, opset)


def _check_graph(graph: "onnx.GraphProto", scope: Scope, opset: int) -> None:
    for node in graph.node:
        if node.domain in DEFAULT_DOMAINS:
            _check_node(node, scope, opset)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _check_graph(attribute.g, scope.inside(attribute.g), opset)


def _check_node(node: "onnx.NodeProto", scope: Scope, opset: int) -> None:
    from onnx import defs

    schema = defs.get_schema(node.op_type, opset, "")
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    pairs = (*_pairs(node.input, schema.inputs), *_pairs(node.output, schema.outputs))
    for name, formal in pairs:
        known = scope.type_of(name) if name else None
        types = allowed.get(formal.type_str, [formal.type_str])
        if known is not None and (said := _said(known)) and said not in types:
            raise newer(node, f"{said} as {formal.name}")


def _pairs(
    names: Iterable[str], formals: "Sequence[onnx.defs.OpSchema.FormalParameter]"
) -> "Iterator[tuple[str, onnx.defs.OpSchema.FormalParameter]]":
    """Each name with what the schema says of it; the last formal parameter may stand for many."""
    for index, name in enumerate(names):
        if formals:
            yield name, formals[min(index, len(formals) - 1)]


def _said(known: "onnx.TypeProto") -> str:
    """A type as schemas write it; empty where an element type is not known."""
    from onnx import TensorProto

    kind = known.WhichOneof("value")
    if kind == "tensor_type":
        element = known.tensor_type.elem_type
        return f"tensor({TensorProto.DataType.Name(element).lower()})" if element else ""
    if kind in ("sequence_type", "optional_type"):
        inner = _said(getattr(known, kind).elem_type)
        return f"{'seq' if kind == 'sequence_type' else 'optional'}({inner})" if inner else ""
    return ""
