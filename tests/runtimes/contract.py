"""Tiny graphs, and what it takes to build and open them with any runtime."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper
from onnx.numpy_helper import from_array
from pydantic import JsonValue

from tasks.core.config import RuntimeName
from tasks.core.files import link_or_copy
from tasks.core.signature import DimRange, InputSpec, Signature
from tasks.core.tensors import Tensors, save_batches
from tasks.runtimes.base import (
    CARD,
    ENGINE,
    BuildMetrics,
    BuildRequest,
    EngineCard,
    OpenOptions,
    Session,
    external_files,
)
from tasks.runtimes.base import read_card as read
from tasks.runtimes.interpreters import own
from tasks.runtimes.load import load_runtime
from tasks.runtimes.opset.lower import lower_opset
from tasks.runtimes.tensorrt_dialects import reads

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@dataclass(frozen=True)
class Case:
    """A typed graph with what a build needs to know of it."""

    model: Path
    signature: Signature
    batches: list[Tensors]
    golden: Path
    precision: str = "fp32"


@dataclass(frozen=True)
class Built:
    """An engine as a runtime left it."""

    metrics: BuildMetrics
    card: EngineCard
    engine: Path


def random(seed: int, *shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]],
) -> onnx.ModelProto:
    tensors = [from_array(value, name) for name, value in weights.items()]
    made = helper.make_graph(list(nodes), "graph", list(inputs), list(outputs), tensors)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def case(
    folder: Path, model: onnx.ModelProto, signature: Signature, batches: list[Tensors], kind: str = "fp32"
) -> Case:
    path, golden = folder / "model.onnx", folder / "golden.safetensors"
    onnx.save(model, path)
    save_batches(golden, batches)
    return Case(model=path, signature=signature, batches=batches, golden=golden, precision=kind)


def signature_of(
    inputs: dict[str, tuple[str, tuple[int | str, ...]]], dims: dict[str, tuple[int, int, int]]
) -> Signature:
    return Signature.model_validate(
        {
            "inputs": {name: InputSpec.model_validate({"dtype": d, "shape": s}) for name, (d, s) in inputs.items()},
            "dims": {name: DimRange(min=low, opt=opt, max=high) for name, (low, opt, high) in dims.items()},
        }
    )


def convolution(folder: Path) -> Case:
    """One image in, logits out: small, and of interest to every level of an optimiser."""
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], name="norm"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["logits"], name="head"),
    ]
    weights = {"w1": random(1, 8, 1, 3, 3), "b1": random(2, 8), "scale": random(3, 8), "shift": random(4, 8)}
    weights |= {"mean": random(5, 8), "var": np.abs(random(6, 8)) + 1, "w2": random(7, 8, 10), "b2": random(8, 10)}
    model = graph(
        nodes,
        [helper.make_tensor_value_info("image", FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", FLOAT, ["batch", 10])],
        weights,
    )
    signature = signature_of({"image": ("float32", ("batch", 1, 8, 8))}, {"batch": (1, 4, 16)})
    return case(folder, model, signature, [{"image": random(9, 4, 1, 8, 8)}, {"image": random(10, 1, 1, 8, 8)}])


def sentences(folder: Path) -> Case:
    """Token ids and a mask in, two outputs of different types out, two dynamic dims that the inputs share."""
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["words"], name="embed"),
        helper.make_node("Unsqueeze", ["mask", "last"], ["wide"], name="wide"),
        helper.make_node("Mul", ["words", "wide"], ["masked"], name="masked"),
        helper.make_node("ReduceMean", ["masked", "middle"], ["sentence"], name="mean", keepdims=0),
        helper.make_node("ArgMax", ["masked"], ["strongest"], name="argmax", axis=2, keepdims=0),
    ]
    model = graph(
        nodes,
        [
            helper.make_tensor_value_info("ids", INT64, ["batch", "words"]),
            helper.make_tensor_value_info("mask", FLOAT, ["batch", "words"]),
        ],
        [
            helper.make_tensor_value_info("sentence", FLOAT, ["batch", 6]),
            helper.make_tensor_value_info("strongest", INT64, ["batch", "words"]),
        ],
        {"table": random(1, 20, 6), "last": np.array([2]), "middle": np.array([1])},
    )
    signature = signature_of(
        {"ids": ("int64", ("batch", "words")), "mask": ("float32", ("batch", "words"))},
        {"batch": (1, 2, 4), "words": (1, 5, 9)},
    )
    ids = np.random.default_rng(2).integers(0, 20, (4, 9))
    mask = np.ones((4, 9), np.float32)
    return case(folder, model, signature, [{"ids": ids, "mask": mask}, {"ids": ids[:1, :5], "mask": mask[:1, :5]}])


def build(name: RuntimeName, given: Case, folder: Path, options: dict[str, JsonValue] | None = None) -> Built:
    folder.mkdir(exist_ok=True)
    metrics = load_runtime(name).build(request(name, given, folder, options), folder)
    return Built(metrics=metrics, card=read(folder / CARD), engine=folder / ENGINE)


def request(name: RuntimeName, given: Case, folder: Path, options: dict[str, JsonValue] | None = None) -> BuildRequest:
    return BuildRequest(
        runtime=name,
        model=lowered(name, given),
        precision=given.precision,
        signature=given.signature,
        golden=given.golden,
        host={},
        options=options or {},
        folder=folder,
    )


def lowered(name: RuntimeName, given: Case) -> Path:
    """The graph as the step `lower` makes it for the TensorRT that is here."""
    readable = reads(own(name), given.precision)
    if readable is None:
        return given.model
    folder = given.model.parent / f"opset{readable.opset}"
    folder.mkdir(exist_ok=True)
    model = onnx.load(given.model, load_external_data=False)
    for data in external_files(given.model):
        link_or_copy(given.model.parent / data, folder / data)
    onnx.save(lower_opset(model, readable.opset, readable.ir_version, given.model.parent), folder / given.model.name)
    return folder / given.model.name


def opened(name: RuntimeName, built: Built) -> Session:
    return load_runtime(name).open(built.engine, built.card, OpenOptions())
