"""Quantise a graph to int8, fp8 or int4 with ModelOpt or ONNX Runtime (in a worker of its own).

One quantiser a process: ModelOpt changes `onnxruntime.quantization` for the whole process that it runs in.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.core.config_precision import Method, Quantizer
from tasks.core.errors import DoesNotApply, StepError
from tasks.core.feeds import join, samples_in
from tasks.core.frozen import Frozen
from tasks.core.signature import batch_axes
from tasks.core.tensors import Tensors, load_batches
from tasks.runtimes.base import external_files
from tasks.sources.handed_back import check_handed_back, join_outputs, part_outputs
from tasks.sources.library_call import call_library
from tasks.sources.library_input import check_memory, private_copy
from tasks.sources.onnx_graph import load_graph, read_facts
from tasks.sources.onnx_normalise import drop_value_info
from tasks.sources.onnx_qdq import bypass, free_outputs, quantized_nodes, read_inside
from tasks.sources.opset_raise import raise_opset
from tasks.sources.typed_metrics import TypedMetrics, check_lowerable, excluded_nodes, typed_metrics

if TYPE_CHECKING:
    import onnx

QuantizedKind = Literal["int8", "fp8", "int4"]

# ModelOpt's names; of its awq variants, lite searches one scale a column and is the fastest.
_MODELOPT = {"max": "max", "entropy": "entropy", "rtn": "rtn_dq", "awq": "awq_lite"}
# Quantising every operator gave invalid graphs and ruined encoders: these are what runs faster in int8.
_STATIC_OP_TYPES = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# QuantizeBias off and pairs on the weights leave bias and weights in fp32, the form that TensorRT 8.6 reads.
_STATIC_OPTIONS = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
    "DedicatedQDQPair": False,
    "AddQDQPairToWeight": True,
}
# The first opsets whose Q/DQ nodes take what ModelOpt writes; it raises older graphs, and not always rightly.
_PER_CHANNEL_OPSET = 13
_OPSETS = {"int8": 19, "fp8": 19, "int4": 21}
# Times the weights, at its peak (ModelOpt 0.47, onnxruntime 1.31; measured with 134 and 403 MB of them).
_MEMORY = {"int8": 11.0, "fp8": 11.0, "int4": 9.0, "onnxruntime": 3.5}
# As ModelOpt 0.47 decides: tensor cores gain nothing below 16, and it has no pairs for recurrent operators.
_ENOUGH_ROWS = 16
_TAKEN = {
    "int8": "convolutions, and matrix products whose sides are at least 16",
    "fp8": "convolutions and matrix products whose channels or sides are at least 16",
    "int4": "the constant weights of MatMul and Gemm",
}


class QuantizeRequest(Frozen):
    """A folded graph, and the batches that show its ranges; the pinned ModelOpt decides where Q/DQ pairs go."""

    model: Path
    kind: QuantizedKind
    method: Method
    tool: Quantizer
    calibration: Path | None
    exclude_nodes: tuple[str, ...]
    exclude_op_types: tuple[str, ...]
    folder: Path


def quantize_graph(request: QuantizeRequest) -> TypedMetrics:
    """Write the typed model.onnx: Q/DQ pairs around what runs in the lower precision, fp32 everywhere else."""
    import onnx

    source = load_graph(request.model)
    check_lowerable(source, request.kind)
    if request.method == "awq" and request.calibration:
        _check_alike(load_batches(request.calibration))
    excluded = excluded_nodes(source, request.exclude_nodes, request.exclude_op_types)
    model = _quantized(request, excluded)
    bypass(model, set(excluded))  # a node that reads what another one's pair gives would compute on it all the same
    free_outputs(model)
    drop_value_info(model.graph)  # shapes of one calibration batch, which contradict the dynamic dims
    check_handed_back(model, source, request.tool)
    typed = typed_metrics(model)
    _check_quantized(request, typed, source)
    _check_excluded(request, model, excluded)
    external = bool(typed_metrics(source).facts.external_files)
    path, data = request.folder / "model.onnx", "model.onnx.data" if external else None
    onnx.save_model(model, str(path), save_as_external_data=external, location=data)
    return typed.model_copy(update={"facts": read_facts(load_graph(path))})


def _check_alike(batches: "Sequence[Tensors]") -> None:
    """Refuse batches of several shapes: awq lays the activations of all of them side by side."""
    shapes = {name: sorted({batch[name].shape[1:] for batch in batches}) for name in batches[0]}
    for name, found in shapes.items():
        if len(found) > 1:
            raise StepError(
                f"awq needs calibration batches of one shape: those of {name!r} are {list(found[0])} and "
                f"{list(found[-1])} behind the batch",
                "pad or cut the calibration data to one size, or use {int4: {method: rtn}}",
            )


def _check_quantized(request: QuantizeRequest, typed: TypedMetrics, source: "onnx.ModelProto") -> None:
    """Refuse a graph in which nothing was quantised: libraries return it as a success."""
    if typed.computes_quantized:
        return
    present = ", ".join(sorted({node.op_type for node in source.graph.node}))
    left = ", once `exclude` is obeyed" if request.exclude_nodes or request.exclude_op_types else ""
    raise DoesNotApply(
        f"{request.kind} changed nothing: {request.tool} quantises {_TAKEN[request.kind]}, and found none that it "
        f"takes in this graph ({present}){left}",
        f"take {request.kind} out of `precisions`, or exclude less",
    )


def _check_excluded(request: QuantizeRequest, model: "onnx.ModelProto", excluded: list[str]) -> None:
    """Refuse a graph in which an excluded node is quantised all the same; int4 weights cannot be passed by."""
    still = [node.name for node in quantized_nodes(model) if node.name in excluded]
    if still:
        raise StepError(
            f"{request.tool} brought {still[0]!r} to {request.kind} although it is excluded ({len(still)} such nodes)",
            "take it out of `exclude`, or use another precision",
        )


def _quantized(request: QuantizeRequest, excluded: list[str]) -> "onnx.ModelProto":
    """Have the library write its graph into the scratch folder, and read it back with its weights."""
    import onnx

    tool = f"{request.tool} to {request.kind}"
    static = "use {int8: {with: onnxruntime}}, which holds it about 3.5 times, " if request.kind == "int8" else ""
    if request.tool == "modelopt":
        check_memory(request.model, tool, _MEMORY[request.kind], static)
    else:
        check_memory(request.model, tool, _MEMORY["onnxruntime"])
    scratch = request.folder / "scratch"
    source, target = private_copy(request.model, scratch / "source"), scratch / "quantized" / "model.onnx"
    target.parent.mkdir()
    if request.kind == "int4":
        _transpose_gemm_weights(source)
    batches = load_batches(request.calibration)[:1] if request.calibration else []
    raise_opset(source, _OPSETS[request.kind] if request.tool == "modelopt" else _PER_CHANNEL_OPSET, batches)
    parted = part_outputs(source)
    by = _by_onnxruntime if request.tool == "onnxruntime" else _by_modelopt
    cure = "use {int4: {method: rtn}}, " if request.method == "awq" else ""
    cure += f"leave {request.kind} out of `precisions`, or let the run pass without it: "
    cure += f"{{{request.kind}: {{optional: true}}}}"
    what = f"{request.tool} cannot quantise this graph to {request.kind}"
    call_library(what, scratch / "work", lambda: by(request, source, target, excluded), cure)
    model = onnx.load(str(target))
    join_outputs(model, parted)
    return model


def _by_modelopt(request: QuantizeRequest, source: Path, target: Path, excluded: list[str]) -> None:
    from modelopt.onnx.quantization import quantize

    from tasks.sources.int4_packing import provide

    provide()
    quantize(
        str(source),
        quantize_mode=request.kind,
        calibration_method=_MODELOPT[request.method],
        calibration_data_reader=_Reader(request),
        calibration_eps=["cpu"],
        nodes_to_exclude=[f"^{re.escape(name)}$" for name in excluded],
        use_external_data_format=bool(external_files(source)),
        output_path=str(target),
        high_precision_dtype="fp32",  # its default would cast the rest to fp16
        log_level="ERROR",
        awqlite_fuse_nodes=False,  # fusing scales into the layer before takes cupy for granted
    )


def _by_onnxruntime(request: QuantizeRequest, source: Path, target: Path, excluded: list[str]) -> None:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    quantize_static(
        str(source),
        str(target),
        _Reader(request),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        op_types_to_quantize=list(_STATIC_OP_TYPES),
        nodes_to_exclude=excluded,
        use_external_data_format=bool(external_files(source)),
        extra_options=dict(_STATIC_OPTIONS),
    )


def _batch_axes(request: QuantizeRequest) -> dict[str, int]:
    """Axes along which samples may be repeated: those of the batch, or the first where all are dynamic."""
    shapes = {name: spec.shape for name, spec in read_facts(load_graph(request.model)).inputs.items()}
    firsts = {name: 0 for name, shape in shapes.items() if shape}
    return batch_axes(shapes) or (firsts if all(isinstance(shapes[name][0], str) for name in firsts) else {})


class _Reader:
    """Calibration batches as both libraries read them."""

    def __init__(self, request: QuantizeRequest) -> None:
        self._batches = load_batches(request.calibration) if request.calibration else []
        self._next: Iterator[Tensors] = iter(self._batches)
        self._axes = _batch_axes(request)

    def get_first(self) -> Tensors:
        """Give a batch to look at, and stay where we are.

        ModelOpt reads from its sizes which products are too small to quantise. So a batch of one sample must not stand
        for a batch dim that takes more.
        """
        first = self._batches[0]
        if not self._axes or samples_in(first, self._axes) >= _ENOUGH_ROWS:
            return first
        return join([first] * -(-_ENOUGH_ROWS // samples_in(first, self._axes)), self._axes)

    def get_next(self) -> "Tensors | None":
        """Give the next batch, None after the last."""
        return next(self._next, None)

    def rewind(self) -> None:
        """Begin again."""
        self._next = iter(self._batches)

    def __iter__(self) -> Iterator[Tensors]:
        return self._next

    def __len__(self) -> int:
        return len(self._batches)


def _transpose_gemm_weights(path: Path) -> None:
    """Write the constant weights of `Gemm(transB=1)` the other way round, in place.

    ModelOpt blocks int4 weights along their first axis, which is the reduction axis of MatMul and of Gemm(transB=0)
    only: of a transposed one it makes scales that no runtime accepts, or blocks across the outputs.
    """
    import onnx

    model = onnx.load(str(path))
    readers = [name for node in model.graph.node for name in node.input]
    elsewhere = read_inside(model.graph) | {output.name for output in model.graph.output}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        flag = next((attribute for attribute in node.attribute if attribute.name == "transB"), None)
        if node.op_type == "Gemm" and flag is not None and flag.i and node.input[1] in weights:
            shared = readers.count(node.input[1]) > 1 or node.input[1] in elsewhere
            _transpose(weights[node.input[1]], node, model.graph, shared=shared)
            flag.i = 0
    external = external_files(path)
    for stale in (path.name, *external):
        path.with_name(stale).unlink()
    location = "model.onnx.data" if external else None
    onnx.save_model(model, str(path), save_as_external_data=bool(external), location=location)


def _transpose(weight: "onnx.TensorProto", node: "onnx.NodeProto", graph: "onnx.GraphProto", *, shared: bool) -> None:
    from onnx import numpy_helper

    array = numpy_helper.to_array(weight).T.copy()
    if shared:
        node.input[1] = f"{weight.name}_transposed_for_{node.output[0]}"
        graph.initializer.append(numpy_helper.from_array(array, node.input[1]))
    else:
        weight.CopyFrom(numpy_helper.from_array(array, weight.name))
