"""Operators that are written in terms of others, by ONNX itself or by the model, spelt out."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tasks.runtimes.opset.scope import DEFAULT_DOMAINS, Nodes, Scope, attributes, called, constant_of, newer

if TYPE_CHECKING:
    import onnx

    from tasks.runtimes.opset.scope import Array


def schema_body(node: "onnx.NodeProto", schema: Any, scope: Scope) -> "onnx.FunctionProto":  # noqa: ANN401 - half typed
    """What ONNX says that an operator is made of."""
    from onnx import FunctionProto, TypeProto

    body = FunctionProto()
    if schema.has_function:
        body.CopyFrom(schema.function_body)
        return body
    types = [scope.type_of(name) if name else TypeProto() for name in node.input]
    unknown = [name for name, kind in zip(node.input, types, strict=True) if kind is None]
    if unknown:
        raise newer(node, f"it has to be spelt out, and the type of {unknown[0]!r} is not known")
    version = max(schema.context_dependent_function_opset_versions)
    given = [kind.SerializeToString() for kind in types if kind is not None]
    made = schema.get_context_dependent_function_with_opset_version(version, node.SerializeToString(), given)
    body.ParseFromString(made)
    if not body.node:
        raise newer(node, "ONNX does not say what it is made of")
    return body


def expand(
    node: "onnx.NodeProto", body: "onnx.FunctionProto", scope: Scope, model: "onnx.ModelProto"
) -> "Iterator[onnx.NodeProto]":
    """Nodes of a body in the place of a node that calls it, with constants as initializers."""
    base = called(node)
    names = {formal: scope.fresh(f"{base}/{formal}") for formal in _made_in(body.node)}
    names |= dict.fromkeys(body.output, "") | dict.fromkeys(body.input, "")
    names |= dict(zip(body.output, node.output, strict=False)) | dict(zip(body.input, node.input, strict=False))
    # An output that the node leaves out may be used inside its body.
    names |= {formal: scope.fresh(f"{base}/{formal}") for formal in body.output if not names[formal]}
    given = _given(node, body)
    copies = [_renamed(inner, names, given, base) for inner in body.node]
    _infer(copies, body, scope, model)
    for copy in copies:
        for chosen in _chosen(copy, scope):
            for settled in _settled(chosen, scope):
                scope.note(settled)
                yield settled


def _made_in(nodes: "Sequence[onnx.NodeProto]") -> Iterator[str]:
    """Names that nodes and the bodies inside them make, formal inputs of those bodies included."""
    for node in nodes:
        yield from (name for name in node.output if name)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from (value.name for value in attribute.g.input)
                yield from (tensor.name for tensor in attribute.g.initializer)
                yield from _made_in(attribute.g.node)


def _given(node: "onnx.NodeProto", body: "onnx.FunctionProto") -> "dict[str, onnx.AttributeProto]":
    """Attributes by the names under which the body refers to them: the node's, else their defaults."""
    from onnx import defs

    given = {attribute.name: attribute for attribute in body.attribute_proto}
    if node.domain in DEFAULT_DOMAINS and defs.has(node.op_type, ""):
        schema = defs.get_schema(node.op_type, "")
        given |= {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}
    return given | {attribute.name: attribute for attribute in node.attribute}


def _renamed(
    inner: "onnx.NodeProto", names: Mapping[str, str], given: "Mapping[str, onnx.AttributeProto]", base: str
) -> "onnx.NodeProto":
    from onnx import NodeProto

    copy = NodeProto()
    copy.CopyFrom(inner)
    _rename(copy, names, given)
    copy.name = f"{base}/{inner.name or next((name for name in inner.output if name), inner.op_type)}"
    return copy


def _rename(node: "onnx.NodeProto", names: Mapping[str, str], given: "Mapping[str, onnx.AttributeProto]") -> None:
    """Give a node of a body the names and attributes of the call."""
    for field in (node.input, node.output):
        told = [names.get(name, name) for name in field]
        del field[:]
        field.extend(told)
    settled = [_attribute(attribute, given) for attribute in node.attribute]
    del node.attribute[:]
    node.attribute.extend(attribute for attribute in settled if attribute is not None)
    for attribute in node.attribute:
        if attribute.HasField("g"):
            _rename_graph(attribute.g, names, given)


def _rename_graph(
    graph: "onnx.GraphProto", names: Mapping[str, str], given: "Mapping[str, onnx.AttributeProto]"
) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for inner in graph.node:
        _rename(inner, names, given)


def _attribute(
    attribute: "onnx.AttributeProto", given: "Mapping[str, onnx.AttributeProto]"
) -> "onnx.AttributeProto | None":
    """An attribute that refers to one of the call, exchanged for that; None where the call has none."""
    from onnx import AttributeProto

    if not attribute.ref_attr_name:
        return attribute
    if attribute.ref_attr_name not in given:
        return None
    told = AttributeProto()
    told.CopyFrom(given[attribute.ref_attr_name])
    told.name = attribute.name
    return told


def _infer(nodes: Nodes, body: "onnx.FunctionProto", scope: Scope, model: "onnx.ModelProto") -> None:
    """Learn the types of what the nodes of a body make."""
    from onnx import helper, shape_inference

    made = {name for node in nodes for name in node.output}
    used = dict.fromkeys(name for node in nodes for name in node.input if name and name not in made)
    known = {name: kind for name in used if (kind := scope.type_of(name)) is not None}
    inputs = [helper.make_value_info(name, kind) for name, kind in known.items()]
    small = helper.make_model(
        helper.make_graph(nodes, "body", inputs, []),
        opset_imports=body.opset_import,
        ir_version=10,
        functions=model.functions,
    )
    scope.learn(shape_inference.infer_shapes(small, data_prop=True).graph.value_info)


def _chosen(node: "onnx.NodeProto", scope: Scope) -> "Iterator[onnx.NodeProto]":
    """The body of an If that a constant decides, in its place: TensorRT wants both bodies to have the same ranks."""
    from onnx.helper import make_node

    condition = scope.constant(node.input[0]) if node.op_type == "If" else None
    if condition is None:
        yield node
        return
    name = "then_branch" if condition.item() else "else_branch"
    body = next(attribute.g for attribute in node.attribute if attribute.name == name)
    for inner in body.node:
        yield from _chosen(inner, scope)
    for made, output in zip(body.output, node.output, strict=True):
        yield make_node("Identity", [made.name], [output], name=f"{node.name}/{made.name}")


def _settled(node: "onnx.NodeProto", scope: Scope) -> "Iterator[onnx.NodeProto]":
    """Constants become the graph's, and what they are cast to is cast here and now."""
    from onnx.helper import make_node

    value = constant_of(node)
    if value is not None:
        scope.keep(node.output[0], value)
        return
    kind = scope.dtype(node.input[1]) if node.op_type == "CastLike" else attributes(node).get("to", 0)
    if node.op_type not in ("Cast", "CastLike") or not isinstance(kind, int) or not kind:
        yield node
        return
    value = scope.constant(node.input[0])
    if value is not None:
        scope.keep(node.output[0], _cast(value, kind))
        return
    yield make_node("Cast", [node.input[0]], list(node.output), name=node.name, to=kind)


def _cast(value: "Array", kind: int) -> "Array":
    from onnx.helper import tensor_dtype_to_np_dtype

    return value.astype(tensor_dtype_to_np_dtype(kind))
