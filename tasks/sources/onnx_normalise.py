"""Write a graph in the one form that every tool takes, without changing what it computes (in a worker).

Each pass leaves a graph alone that needs nothing of it. Names of inputs and outputs never change.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.runtimes.external_data import read_in
from tasks.sources.node_order import replace_nodes, sort_nodes
from tasks.sources.onnx_graph import all_nodes, bodies_of
from tasks.sources.onnx_qdq import name_nodes

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

# The first IR version in which an initializer need not be an input too is 4; every tool reads 8.
_IR_VERSION = 8
# What stands in for the opset of a graph that names none, because it holds no standard operator.
_OPSET = 17
_Pass = Callable[["onnx.ModelProto"], bool]


def normalise(model: "onnx.ModelProto", folder: Path) -> "tuple[onnx.ModelProto, tuple[str, ...]]":
    """Give the prepared graph and what was done to it; `folder` is where its external data lies."""
    import onnx
    import onnx.inliner

    prepared = onnx.ModelProto()
    prepared.CopyFrom(model)
    done = []
    if prepared.functions:
        prepared = onnx.inliner.inline_local_functions(prepared, convert_version=True)
        done.append("functions inlined")
    passes: dict[str, _Pass] = {
        "graph named": _name_graph,
        "default domain named": name_default_domain,
        "initializers no longer inputs": _free_initializers,
        "sparse initializers made dense": lambda made: _densify(made, folder),
        "constants made initializers": lambda made: _lift_constants(made, folder),
        "constant outputs given a node": give_outputs_nodes,
        "nodes sorted": lambda made: sort_nodes(made.graph),
    }
    done += [name for name, change in passes.items() if change(prepared)]
    drop_value_info(prepared.graph)
    name_all_nodes(prepared.graph)
    return prepared, tuple(done)


def graphs_of(graph: "onnx.GraphProto") -> "Iterator[onnx.GraphProto]":
    """A graph and, at any depth, the bodies of its control flow."""
    yield graph
    for node in graph.node:
        for body in bodies_of(node):
            yield from graphs_of(body)


def name_all_nodes(graph: "onnx.GraphProto") -> None:
    """Give every node of a graph and its bodies a name of its own."""
    taken: set[str] = set()
    for each in graphs_of(graph):
        name_nodes(each, taken)


def drop_value_info(graph: "onnx.GraphProto") -> None:
    """Forget the noted shapes of inner tensors: tools believe them, and some are stale."""
    for each in graphs_of(graph):
        del each.value_info[:]


def _name_graph(model: "onnx.ModelProto") -> bool:
    unnamed = not model.graph.name
    model.graph.name = model.graph.name or "graph"
    return unnamed


def name_default_domain(model: "onnx.ModelProto") -> bool:
    """Call the domain of ONNX's own operators "", by one entry; it is also known as ai.onnx."""
    import onnx

    found = [entry for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    long = [node for node in all_nodes(model) if node.domain == "ai.onnx"]
    if len(found) == 1 and found[0].domain == "" and not long:
        return False
    for node in long:
        node.domain = ""
    version = max((entry.version for entry in found), default=_OPSET)
    others = [entry for entry in model.opset_import if entry.domain not in ("", "ai.onnx")]
    entries = [onnx.helper.make_opsetid("", version), *(onnx.helper.make_opsetid(e.domain, e.version) for e in others)]
    del model.opset_import[:]
    model.opset_import.extend(entries)
    return True


def _free_initializers(model: "onnx.ModelProto") -> bool:
    """Take initializers out of the inputs, where old models list them; such a model gets a newer IR version."""
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer} | {s.values.name for s in graph.sparse_initializer}
    listed = [value for value in graph.input if value.name in weights]
    for value in listed:
        graph.input.remove(value)
    old = model.ir_version < _IR_VERSION
    model.ir_version = max(model.ir_version, _IR_VERSION)
    return bool(listed) or old


def _densify(model: "onnx.ModelProto", folder: Path) -> bool:
    from onnx import numpy_helper

    found = False
    for graph in graphs_of(model.graph):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(numpy_helper.from_array(_dense(sparse, folder), sparse.values.name))
            found = True
        del graph.sparse_initializer[:]
    return found


def _dense(sparse: "onnx.SparseTensorProto", folder: Path) -> "NDArray[np.generic]":
    import numpy as np
    from onnx import TensorProto, numpy_helper

    read_in((each for each in (sparse.values, sparse.indices) if each.data_location == TensorProto.EXTERNAL), folder)
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(list(sparse.dims), values.dtype)
    if indices.ndim == 1:
        dense.flat[indices] = values
    else:
        dense[tuple(indices.T)] = values
    return dense


def _lift_constants(model: "onnx.ModelProto", folder: Path) -> bool:
    """Make Constant nodes of the main graph initializers, by the same name."""
    graph = model.graph
    lifted = [
        node for node in graph.node if node.op_type == "Constant" and not node.domain and len(node.attribute) == 1
    ]
    for node in lifted:
        tensor = _constant(node.attribute[0], folder)
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
    gone = {node.output[0] for node in lifted}
    if gone:
        replace_nodes(graph, [node for node in graph.node if node.output[0] not in gone])
    return bool(gone)


def _constant(attribute: "onnx.AttributeProto", folder: Path) -> "onnx.TensorProto":
    import numpy as np
    import onnx
    from onnx import TensorProto, numpy_helper

    value = onnx.helper.get_attribute_value(attribute)
    match attribute.name:
        case "value":
            tensor = TensorProto()
            tensor.CopyFrom(value)
            return tensor
        case "sparse_value":
            return numpy_helper.from_array(_dense(value, folder))
        case "value_string" | "value_strings":
            texts = [value] if attribute.name == "value_string" else list(value)
            dims = [] if attribute.name == "value_string" else [len(texts)]
            return onnx.helper.make_tensor("", TensorProto.STRING, dims, texts)
        case _:
            dtype = np.float32 if "float" in attribute.name else np.int64
            return numpy_helper.from_array(np.array(value, dtype))


def give_outputs_nodes(model: "onnx.ModelProto") -> bool:
    """Have an Identity make each output that no node makes: a constant, and in a body anything from around it.

    Tools lose such outputs. One that is an input of the main graph stays: it has one name, and that is not to change.
    """
    taken = tensor_names(model.graph)
    changed = [_give_nodes(graph, taken, main=graph is model.graph) for graph in graphs_of(model.graph)]
    return any(changed)


def _give_nodes(graph: "onnx.GraphProto", taken: set[str], *, main: bool) -> bool:
    import onnx

    made = {name for node in graph.node for name in node.output}
    made |= {value.name for value in graph.input} if main else set()
    bare = list(dict.fromkeys(value.name for value in graph.output if value.name not in made))
    renamed = {name: free_name(f"{name}_{'constant' if main else 'inside'}", taken) for name in bare}
    taken |= set(renamed.values())
    if main:  # its outputs keep their names
        for old, new in renamed.items():
            graph.node.append(onnx.helper.make_node("Identity", [new], [old]))
        _rename_constants(graph, renamed)
    else:
        for value in graph.output:
            if value.name in renamed:
                graph.node.append(onnx.helper.make_node("Identity", [value.name], [renamed[value.name]]))
                value.name = renamed[value.name]
    return bool(bare)


def _rename_constants(graph: "onnx.GraphProto", renamed: dict[str, str]) -> None:
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for each in graphs_of(graph):
        for node in each.node:
            node.input[:] = [renamed.get(name, name) for name in node.input]
        for value in each.output if each is not graph else ():
            value.name = renamed.get(value.name, value.name)


def tensor_names(graph: "onnx.GraphProto") -> set[str]:
    """Names of all tensors of a graph and its bodies."""
    names: set[str] = set()
    for each in graphs_of(graph):
        names |= {value.name for value in (*each.input, *each.output, *each.initializer)}
        names |= {name for node in each.node for name in (*node.input, *node.output)}
    return names


def free_name(name: str, taken: set[str]) -> str:
    """The name, lengthened until it is none of those that are taken."""
    while name in taken:
        name += "_"
    return name
