"""What makes a graph typed: how much of it is in a lower precision (in a worker)."""

import math
import re
from collections import Counter
from typing import TYPE_CHECKING

from pydantic import Field

from tasks.core.config_fields import nearest
from tasks.core.errors import DoesNotApply, StepError
from tasks.core.frozen import Frozen
from tasks.sources.onnx_graph import COMPUTING, GraphFacts, read_facts
from tasks.sources.onnx_qdq import named, quantized_nodes

if TYPE_CHECKING:
    import onnx


class TypedMetrics(Frozen):
    """A typed graph: how many nodes compute in the lower precision, and how many casts or Q/DQ pairs it took.

    `quantized` counts, by operator, the nodes that compute on dequantised inputs.
    """

    facts: GraphFacts
    casts: int
    quantize_nodes: int
    dequantize_nodes: int = 0
    quantized: dict[str, int] = Field(default_factory=dict)
    low_precision_initializers: int
    low_precision_casts: int

    @property
    def lowered(self) -> int:
        """How much of the graph is in a lower precision; a graph may hold other casts of its own."""
        return self.low_precision_initializers + self.low_precision_casts

    @property
    def computing(self) -> tuple[int, int]:
        """How many convolutions, matrix products and the like compute on dequantised inputs, and how many there are."""
        lowered, every = (
            sum(counts.get(name, 0) for name in COMPUTING) for counts in (self.quantized, self.facts.operators)
        )
        return lowered, every

    @property
    def computes_quantized(self) -> bool:
        """Whether anything that is worth it computes on dequantised inputs."""
        return self.computing[0] > 0


def typed_metrics(model: "onnx.ModelProto") -> TypedMetrics:
    """Count what makes a graph typed."""
    import onnx

    low = {onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16}
    facts = read_facts(model)
    return TypedMetrics(
        facts=facts,
        casts=facts.operators.get("Cast", 0),
        quantize_nodes=facts.operators.get("QuantizeLinear", 0),
        dequantize_nodes=facts.operators.get("DequantizeLinear", 0),
        quantized=dict(sorted(Counter(node.op_type for node in quantized_nodes(model)).items())),
        low_precision_initializers=sum(tensor.data_type in low for tensor in model.graph.initializer),
        low_precision_casts=sum(_casts_to(node) in low for node in model.graph.node),
    )


def _casts_to(node: "onnx.NodeProto") -> int | None:
    """The type that a Cast node gives, None for any other node."""
    return next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)


def excluded_nodes(model: "onnx.ModelProto", patterns: tuple[str, ...], op_types: tuple[str, ...]) -> list[str]:
    """Names of the nodes that match a pattern or are of a type; raise StepError where one of those means no node."""
    names = list(named(model))
    found: list[str] = []
    for pattern in patterns:
        matching = [name for name in names if re.fullmatch(pattern, name)]
        if not matching:
            cure = f"{nearest(pattern, names)}look at the names with `trtflow show NAME --where`, or remove it"
            raise StepError(f"exclude.nodes: {pattern!r} matches no node of the graph", cure)
        found += matching
    present = sorted({node.op_type for node in model.graph.node})
    for op_type in op_types:
        if op_type not in present:
            cure = f"{nearest(op_type, present)}the graph has {', '.join(present)}"
            raise StepError(f"exclude.op_types: the graph has no node of type {op_type!r}", cure)
        found += [node.name for node in model.graph.node if node.op_type == op_type]
    return list(dict.fromkeys(found))


def _in_fp64(model: "onnx.ModelProto") -> bool:
    """Whether inputs, outputs or most of the weights are in fp64; a constant or two of a graph in fp32 may be."""
    from onnx import TensorProto

    ends = (value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output))
    sizes = dict.fromkeys((TensorProto.DOUBLE, TensorProto.FLOAT), 0)
    for tensor in model.graph.initializer:
        if tensor.data_type in sizes:
            sizes[tensor.data_type] += math.prod(tensor.dims)
    return TensorProto.DOUBLE in ends or sizes[TensorProto.DOUBLE] > sizes[TensorProto.FLOAT]


def check_lowerable(model: "onnx.ModelProto", kind: str) -> None:
    """Refuse a graph that has a precision of its own: it holds Q/DQ nodes, or its weights are in a 16-bit type."""
    facts = read_facts(model)
    if _in_fp64(model):
        cure = "export it in fp32, or build it as it is: `precisions: [fp32]`"
        raise DoesNotApply(f"the graph takes, gives or holds fp64, and {kind} is made from fp32 only", cure)
    if facts.typed:
        what = "holds Q/DQ nodes already" if facts.quantized else "has its weights in a 16-bit type already"
        cure = "build it as it is: `precisions: [typed]`"
        raise DoesNotApply(f"the graph {what}, and is not brought to {kind} again", cure)
