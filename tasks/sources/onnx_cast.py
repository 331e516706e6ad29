"""Cast a graph to a 16-bit type with ModelOpt's AutoCast (in a worker of its own)."""

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from tasks.core.errors import DoesNotApply
from tasks.core.frozen import Frozen
from tasks.core.tensors import load_batches
from tasks.sources.handed_back import check_handed_back, join_outputs, not_opened, part_outputs
from tasks.sources.library_call import call_library
from tasks.sources.library_input import check_memory, private_copy
from tasks.sources.onnx_fold import MAKING_SEQUENCES
from tasks.sources.onnx_graph import all_nodes, bodies_of, load_graph, read_facts
from tasks.sources.onnx_normalise import drop_value_info, graphs_of
from tasks.sources.opset_raise import raise_opset
from tasks.sources.typed_metrics import TypedMetrics, check_lowerable, excluded_nodes, typed_metrics

if TYPE_CHECKING:
    import onnx

CastKind = Literal["fp16", "bf16"]
# AutoCast keeps a node in fp32 where real data drives it above its limit; a few batches show the range.
RANGE_BATCHES = 8
# Times the weights, at its peak (ModelOpt 0.47; measured with 134 and 403 MB of them).
_MEMORY = 8.0
# The first opsets whose operators take the type; ModelOpt's own choice.
_OPSETS: dict[str, int] = {"fp16": 13, "bf16": 22}
_STANDARD = ("", "ai.onnx", "ai.onnx.ml")
# TensorRT-RTX 1.7 cannot infer the types of a bf16 ConvTranspose: its builder fails on the whole graph.
# AutoCast leaves the inner tensors of Loop and Scan as they are, and casts the weights that they read.
_LOOPS = ("Loop", "Scan", "SequenceMap")
_KEPT: dict[str, tuple[str, ...]] = {"fp16": _LOOPS, "bf16": ("ConvTranspose", *_LOOPS)}
_BRANCHING = ("If",)


class CastRequest(Frozen):
    """A graph to cast, and the feeds on which AutoCast looks at ranges."""

    model: Path
    kind: CastKind
    golden: Path
    calibration: Path | None
    exclude_nodes: tuple[str, ...]
    exclude_op_types: tuple[str, ...]
    folder: Path


def cast_graph(request: CastRequest) -> TypedMetrics:
    """Write the typed model.onnx; inputs and outputs keep their dtypes."""
    import onnx

    graph = load_graph(request.model)
    check_lowerable(graph, request.kind)
    _check_standard(graph)
    source = typed_metrics(graph)
    model = _cast(request, excluded_nodes(graph, request.exclude_nodes, request.exclude_op_types))
    check_handed_back(model, graph, "AutoCast")
    typed = typed_metrics(model)
    if typed.lowered <= source.lowered:
        raise DoesNotApply(
            f"{request.kind} changed nothing: every node stayed in fp32", "take it out of `precisions`, or exclude less"
        )
    external = bool(source.facts.external_files)
    path, data = request.folder / "model.onnx", "model.onnx.data" if external else None
    onnx.save_model(model, str(path), save_as_external_data=external, location=data)
    return typed.model_copy(update={"facts": read_facts(load_graph(path))})


def _cast(request: CastRequest, excluded: list[str]) -> "onnx.ModelProto":
    check_memory(request.model, f"AutoCast to {request.kind}", _MEMORY)
    scratch = request.folder / "scratch"
    private = private_copy(request.model, scratch / "source")
    raise_opset(private, _OPSETS[request.kind], load_batches(request.golden))
    parted = part_outputs(private)
    call = _Call(private, _range_data(request), excluded, _kept(request, load_graph(private)))
    model = _called(request, call)
    if any(any(bodies_of(node)) for node in model.graph.node) and not_opened(model, private.parent):
        model = _called(request, call._replace(op_types=[*call.op_types, *_BRANCHING]))
        reason = not_opened(model, private.parent)
        if reason:
            raise DoesNotApply(f"AutoCast gives a graph that does not open: {reason}", _cure(request.kind))
    join_outputs(model, parted)
    return model


class _Call(NamedTuple):
    """What AutoCast is given: a copy of the graph, feeds that show ranges, and what is to stay in fp32."""

    model: Path
    ranges: Path
    nodes: list[str]
    op_types: list[str]


def _called(request: CastRequest, call: _Call) -> "onnx.ModelProto":
    from modelopt.onnx.autocast import convert_to_mixed_precision

    source = load_graph(call.model)
    sequences = not MAKING_SEQUENCES.isdisjoint(node.op_type for node in source.graph.node)

    def cast() -> "onnx.ModelProto":
        made: onnx.ModelProto = convert_to_mixed_precision(
            str(call.model),
            low_precision_type=request.kind,
            keep_io_types=True,
            nodes_to_exclude=[f"^{re.escape(name)}$" for name in call.nodes],
            op_types_to_exclude=call.op_types,
            calibration_data=str(call.ranges),
            **({"data_max": math.inf} if sequences else {}),  # it looks at ranges of tensors alone
        )
        _restore_types(made.graph, source.graph)
        drop_value_info(made.graph)  # AutoCast leaves entries that contradict the graph, and sessions then fail
        return made

    what = f"AutoCast cannot cast this graph to {request.kind}"
    return call_library(what, request.folder / "scratch" / "work", cast, _cure(request.kind))


def _restore_types(made: "onnx.GraphProto", source: "onnx.GraphProto") -> None:
    """Give the inputs and outputs of bodies their types again: AutoCast clears them, and infers not all anew."""
    types = {value.name: value.type for body in graphs_of(source) for value in (*body.input, *body.output)}
    for body in graphs_of(made):
        for value in (*body.input, *body.output):
            kind = value.type
            if value.name in types and kind.HasField("tensor_type") and not kind.tensor_type.elem_type:
                kind.CopyFrom(types[value.name])


def _cure(kind: CastKind) -> str:
    return f"leave {kind} out of `precisions`, or let the run pass without it: {{{kind}: {{optional: true}}}}"


def _kept(request: CastRequest, graph: "onnx.ModelProto") -> list[str]:
    """Operators that stay in fp32: those asked for, those of `_KEPT`, and bodies, in which AutoCast mixes types."""
    present = {node.op_type for node in graph.graph.node}
    return [*request.exclude_op_types, *(name for name in _KEPT[request.kind] if name in present)]


def _check_standard(graph: "onnx.ModelProto") -> None:
    """Refuse operators that AutoCast runs by TensorRT's plugins, which are not here."""
    foreign = {f"{node.op_type} ({node.domain})" for node in all_nodes(graph) if node.domain not in _STANDARD}
    if foreign:
        raise DoesNotApply(
            f"AutoCast takes ONNX's own operators only, and the graph has {', '.join(sorted(foreign))}",
            "export the model without them, for instance before ONNX Runtime optimises it",
        )


def _range_data(request: CastRequest) -> Path:
    """Golden and calibration batches as AutoCast reads them: one npz file a batch."""
    import numpy as np

    folder = request.folder / "scratch" / "ranges"
    folder.mkdir(parents=True)
    batches = load_batches(request.golden)
    batches += load_batches(request.calibration)[:RANGE_BATCHES] if request.calibration else []
    for index, batch in enumerate(batches):
        arrays = {name: np.asarray(array) for name, array in batch.items()}
        np.savez(folder / f"{index:05d}.npz", **arrays)  # type: ignore[arg-type]
    return folder
