"""What a rewrite may ask of the graph around its node, and where it puts constants."""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from tasks.core.errors import CannotRun

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

    Array: TypeAlias = NDArray[np.generic]
Nodes: TypeAlias = "list[onnx.NodeProto]"
Rule: TypeAlias = "Callable[[onnx.NodeProto, Scope], Nodes]"
DEFAULT_DOMAINS = ("", "ai.onnx")
# What sizes and axes are computed by; their values are worth the while only where they are small.
_CHEAP = frozenset(
    {
        *("Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Gather", "Identity", "Mul", "Neg", "Range"),
        *("Reshape", "Slice", "Squeeze", "Sub", "Unsqueeze"),
    }
)
_SMALL = 64


class Scope:
    """One graph, or one body inside it, whose names its `outer` scopes have too.

    `names` are all names of the model, shared by its scopes.
    """

    def __init__(self, graph: "onnx.GraphProto", names: set[str], outer: "Scope | None" = None) -> None:
        self._graph, self._names, self._outer = graph, names, outer
        self._types: dict[str, onnx.TypeProto] = {}
        # One that is an input too is a constant all the same: nothing here ever feeds another value.
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {made: node for node in graph.node for made in node.output if made}
        self.learn((*graph.value_info, *graph.input, *graph.output))

    def inside(self, graph: "onnx.GraphProto") -> Self:
        """The scope of a body that a node of this graph has."""
        return type(self)(graph, self._names, self)

    def learn(self, values: "Iterable[onnx.ValueInfoProto]") -> None:
        """Note types; the last word on a name wins."""
        self._types |= {value.name: value.type for value in values if value.type.WhichOneof("value")}

    def type_of(self, name: str) -> "onnx.TypeProto | None":
        """Type of a tensor, None where nothing tells."""
        from onnx.helper import make_tensor_type_proto

        if name in self._types:
            return self._types[name]
        if name in self._tensors:
            tensor = self._tensors[name]
            return make_tensor_type_proto(tensor.data_type, tensor.dims)
        return self._outer.type_of(name) if self._outer else None

    def dtype(self, name: str) -> int:
        """Element type, 0 where it is not known."""
        known = self.type_of(name)
        return known.tensor_type.elem_type if known is not None else 0

    def shape(self, name: str) -> list[int | None] | None:
        """Sizes, None for those that are not known; None where the rank is not."""
        known = self.type_of(name)
        if known is None or not known.tensor_type.HasField("shape"):
            return None
        return [dim.dim_value if dim.HasField("dim_value") else None for dim in known.tensor_type.shape.dim]

    def rank(self, node: "onnx.NodeProto", name: str) -> int:
        """Rank of an input of the node, which must be known."""
        shape = self.shape(name)
        if shape is None:
            raise newer(node, f"the rank of {name!r} is not known")
        return len(shape)

    def note(self, node: "onnx.NodeProto") -> None:
        """Note what makes a tensor that the graph did not have."""
        self._makers |= {made: node for made in node.output if made}

    def constant(self, name: str) -> "Array | None":
        """Value of a tensor that the graph itself holds, or computes of nothing but that and of known sizes."""
        from onnx.numpy_helper import to_array

        if name in self._tensors:
            tensor = self._tensors[name]
            return None if tensor.external_data else to_array(tensor)
        maker = self._makers.get(name)
        if maker is None:
            return self._outer.constant(name) if self._outer else None
        value = constant_of(maker)
        return value if value is not None else self._computed(maker)

    def _computed(self, node: "onnx.NodeProto") -> "Array | None":
        """What a node makes, where it is cheap and all that it reads is known."""
        if node.domain not in DEFAULT_DOMAINS:
            return None
        if node.op_type in ("Shape", "Size"):
            return self._sizes(node)
        if node.op_type not in _CHEAP:
            return None
        values = {name: self.constant(name) for name in node.input if name}
        known = {name: value for name, value in values.items() if value is not None and value.size <= _SMALL}
        return evaluated(node, known) if len(known) == len(values) else None

    def _sizes(self, node: "onnx.NodeProto") -> "Array | None":
        import numpy as np

        known = [size for size in self.shape(node.input[0]) or [None] if size is not None]
        if len(known) != len(self.shape(node.input[0]) or [None]):
            return None
        if node.op_type == "Size":
            return np.asarray(np.prod(known, dtype=np.int64))
        bounds = attributes(node)
        start, end = bounds.get("start", 0), bounds.get("end")
        return np.array(known, np.int64)[start:end]

    def add(self, base: str, value: "Array") -> str:
        """Keep a constant with the graph, under a name that begins so; returns its name."""
        name = self.fresh(base)
        self.keep(name, value)
        return name

    def keep(self, name: str, value: "Array") -> None:
        """Keep a constant with the graph under exactly that name."""
        from onnx.numpy_helper import from_array

        tensor = from_array(value, name)
        self._graph.initializer.append(tensor)
        self._tensors[name] = tensor

    def numbers(self, base: str, *values: int) -> str:
        """The same for a list of integers."""
        import numpy as np

        return self.add(base, np.array(values, np.int64))

    def scalar(self, base: str, value: int) -> str:
        """The same for one integer without axes."""
        import numpy as np

        return self.add(base, np.asarray(value, np.int64))

    def fresh(self, base: str) -> str:
        """A name that the model does not have yet."""
        name, count = base, 0
        while name in self._names:
            count += 1
            name = f"{base}_{count}"
        self._names.add(name)
        return name

    def dims_behind(self, name: str) -> list[int]:
        """Sizes of the initializer that a tensor is made of by Q/DQ, none where that is something else."""
        while name in self._makers and self._makers[name].op_type in ("QuantizeLinear", "DequantizeLinear"):
            name = self._makers[name].input[0]
        return list(self._tensors[name].dims) if name in self._tensors else []


def constant_of(node: "onnx.NodeProto") -> "Array | None":
    """Value that a Constant holds, None for any other node and for strings and sparse tensors."""
    import numpy as np
    from onnx.numpy_helper import to_array

    if node.op_type != "Constant" or node.domain not in DEFAULT_DOMAINS:
        return None
    held = node.attribute[0]
    match held.name:
        case "value":
            return None if held.t.external_data else to_array(held.t)
        case "value_int" | "value_ints":
            return np.asarray(held.i if held.name == "value_int" else list(held.ints), np.int64)
        case "value_float" | "value_floats":
            return np.asarray(held.f if held.name == "value_float" else list(held.floats), np.float32)
        case _:
            return None


def evaluated(node: "onnx.NodeProto", feeds: "dict[str, Array]") -> "Array":
    """What one node makes of values, by ONNX's own reference."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
        for name, value in feeds.items()
    ]
    made = helper.make_empty_tensor_value_info(node.output[0])
    graph = helper.make_graph([node], "one", given, [made])
    values: Any = ReferenceEvaluator(helper.make_model(graph)).run(None, feeds)
    value: Array = values[0]
    return value


def attributes(node: "onnx.NodeProto") -> dict[str, object]:
    """Values of a node's attributes."""
    from onnx.helper import get_attribute_value

    return {attribute.name: get_attribute_value(attribute) for attribute in node.attribute}


def drop(node: "onnx.NodeProto", *names: str) -> None:
    """Take attributes off a node."""
    keep = [attribute for attribute in node.attribute if attribute.name not in names]
    del node.attribute[:]
    node.attribute.extend(keep)


def put(node: "onnx.NodeProto", name: str, value: object) -> None:
    """Set an attribute of a node."""
    from onnx.helper import make_attribute

    drop(node, name)
    node.attribute.append(make_attribute(name, value))


def input_of(node: "onnx.NodeProto", index: int) -> str:
    """Name of an input, empty where it is left out."""
    return node.input[index] if index < len(node.input) else ""


def set_inputs(node: "onnx.NodeProto", names: Sequence[str]) -> None:
    """Exchange the inputs of a node; those left out at the end go."""
    kept = list(names)
    while kept and not kept[-1]:
        kept.pop()
    del node.input[:]
    node.input.extend(kept)


def called(node: "onnx.NodeProto") -> str:
    """What names of a rewrite begin with."""
    return node.name or next((name for name in node.output if name), node.op_type)


def newer(node: "onnx.NodeProto", what: str) -> CannotRun:
    """The refusal of a node."""
    return CannotRun(
        f"{node.op_type} ({called(node)!r}) is not in the opset that this TensorRT reads: {what}",
        "export with an older opset, or leave this engine out",
    )
