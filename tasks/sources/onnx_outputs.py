"""Give an exported graph's outputs their names, also those that the graph already uses inside (in a worker).

The exporter names the value that it returns and looks no further: where a submodule gave an inner value the same name,
the graph defines it twice.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tasks.core.errors import UserCodeError

if TYPE_CHECKING:
    import onnx


def placeholders(names: Sequence[str]) -> list[str]:
    """Names to export with: no module calls a value like that."""
    return [f"trtflow.output.{index}" for index in range(len(names))]


def name_outputs(model: "onnx.ModelProto", names: Sequence[str]) -> None:
    """Rename the placeholders; an inner value that has the name of an output gets another one."""
    graph = model.graph
    taken = {value.name for value in graph.input} & set(names)
    if taken:
        raise UserCodeError(f"an output is named like an input: {sorted(taken)}", "give it another name in `outputs`")
    inside = {name for node in graph.node for name in node.output} | {tensor.name for tensor in graph.initializer}
    renamed = {name: _free(f"{name}.inner", inside) for name in names if name in inside}
    renamed |= dict(zip(placeholders(names), names, strict=True))
    _rename(graph, renamed)


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name


def _rename(graph: "onnx.GraphProto", renamed: dict[str, str]) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
        for attribute in node.attribute:
            for body in (attribute.g, *attribute.graphs):
                _rename(body, renamed)
    for value in (*graph.output, *graph.value_info, *graph.initializer):
        value.name = renamed.get(value.name, value.name)
