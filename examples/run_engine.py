"""Run what trtflow promoted, without trtflow: python run_engine.py STORE/PIPELINE [FEEDS.npz [OUTPUTS.npz]].

Needs numpy, pycuda and the TensorRT that made the engine. Without feeds, inputs of the usual size are filled with ones.
Feeds and outputs have the dtypes of the model. The engine may have others (TensorRT 8.6 has no int64): the card says
which, and what goes in and comes out is converted here.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pycuda.driver as cuda
import tensorrt as trt

Arrays = dict[str, Any]


def find_promoted(pipeline: Path) -> tuple[Path, dict[str, Any]]:
    """The folder of the engine that is promoted, and its card."""
    current = json.loads((pipeline / "promoted.json").read_text(encoding="utf-8"))["current"]
    if current is None:
        sys.exit(f"nothing is promoted in {pipeline}")
    folder = pipeline.parent / current["artifact"]
    return folder, json.loads((folder / "card.json").read_text(encoding="utf-8"))


def load_plan(folder: Path, card: dict[str, Any]) -> bytes:
    """The engine's bytes, if they are the ones that the card names, for a TensorRT that is here."""
    if card["runtime"] != "tensorrt" or card["runtime_version"] != trt.__version__:
        sys.exit(f"made by {card['runtime']} {card['runtime_version']}, and this is TensorRT {trt.__version__}")
    plan = (folder / "model.engine").read_bytes()
    if hashlib.sha256(plan).hexdigest() != card["engine_sha256"]:
        sys.exit(f"{folder / 'model.engine'} is not the engine of its card")
    return plan


def usual_feeds(card: dict[str, Any]) -> Arrays:
    """Ones, at the opt of every named dim."""
    sizes = {name: dim["opt"] for name, dim in card["dims"].items()}
    return {
        spec["name"]: np.ones([sizes.get(dim, dim) for dim in spec["shape"]], spec["dtype"]) for spec in card["inputs"]
    }


def check_feeds(card: dict[str, Any], feeds: Arrays) -> None:
    """Stop at feeds that the card does not describe: names, dtypes of the model, sizes."""
    names = [spec["name"] for spec in card["inputs"]]
    if set(feeds) != set(names):
        sys.exit(f"the feeds are {sorted(feeds)}, the engine takes {sorted(names)}")
    known: dict[str, int] = {}
    for spec in card["inputs"]:
        name, feed = spec["name"], feeds[spec["name"]]
        if feed.dtype != spec["dtype"]:
            sys.exit(f"{name} is {feed.dtype}, the model takes {spec['dtype']}")
        pairs = zip(spec["shape"], feed.shape, strict=False)
        sizes = [known.setdefault(dim, size) if isinstance(dim, str) else dim for dim, size in pairs]
        if feed.ndim != len(spec["shape"]) or list(feed.shape) != sizes:
            sys.exit(f"{name} has the shape {list(feed.shape)}, the engine takes {spec['shape']} with {known}")
    for dim, size in known.items():
        allowed = card["dims"][dim]
        if not allowed["min"] <= size <= allowed["max"]:
            sys.exit(f"{dim} is {size}, the engine takes {allowed['min']} to {allowed['max']}")


def engine_dtype(engine: Any, spec: dict[str, Any]) -> Any:  # noqa: ANN401 - of TensorRT; a numpy dtype
    """The dtype of a tensor in the engine's memory; stop where that is not what the card says."""
    found = np.dtype(trt.nptype(engine.get_tensor_dtype(spec["name"])))
    # Cards of older versions do not say it: then the engine alone does.
    said = spec["engine_dtype"] or spec["dtype"] if "engine_dtype" in spec else found
    if found != said:
        sys.exit(f"{spec['name']} is {found} in the engine, and {said} on its card")
    return found


def to_engine(name: str, feed: Any, dtype: Any) -> Any:  # noqa: ANN401 - arrays and dtypes
    """The feed in the engine's dtype; stop at values that do not fit into it."""
    if feed.dtype == dtype:
        return np.asarray(feed, order="C")
    finite = feed[np.isfinite(feed)]
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    if finite.size and (finite.min() < limits.min or finite.max() > limits.max):
        sys.exit(f"{name} holds values beyond {dtype}, which the engine takes")
    return np.asarray(feed.astype(dtype), order="C")


def put(array: Any) -> Any:  # noqa: ANN401 - an array; memory of the GPU
    """Memory of the GPU that holds an array."""
    memory = cuda.mem_alloc(max(array.nbytes, 1))
    if array.nbytes:
        cuda.memcpy_htod(memory, array)
    return memory


def open_engine(plan: bytes, *, holds_code: bool) -> Any:  # noqa: ANN401 - of TensorRT
    """The engine of a plan."""
    logger = trt.Logger(trt.Logger.WARNING)
    trt.init_libnvinfer_plugins(logger, "")
    runtime = trt.Runtime(logger)
    if holds_code:
        runtime.engine_host_code_allowed = True  # such a plan holds code: its digest was compared before this
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        sys.exit("TensorRT does not open the engine: it says why above")
    return engine


def run(engine: Any, card: dict[str, Any], feeds: Arrays) -> Arrays:  # noqa: ANN401 - of TensorRT
    """One inference, from host memory to host memory."""
    context = engine.create_execution_context()
    stream, memory = cuda.Stream(), {}
    for spec in card["inputs"]:
        name = spec["name"]
        feed = to_engine(name, feeds[name], engine_dtype(engine, spec))
        if not context.set_input_shape(name, feed.shape):
            sys.exit(f"the engine does not take {name} as {feed.shape}")
        memory[name] = put(feed)
    outputs = {spec["name"]: empty_output(engine, context, spec) for spec in card["outputs"]}
    memory |= {name: cuda.mem_alloc(max(output.nbytes, 1)) for name, output in outputs.items()}
    for name, address in memory.items():
        context.set_tensor_address(name, int(address))
    if not context.execute_async_v3(stream.handle):
        sys.exit("the engine did not run: TensorRT says why above")
    stream.synchronize()
    for name, output in outputs.items():
        if output.nbytes:
            cuda.memcpy_dtoh(output, memory[name])
    return {spec["name"]: outputs[spec["name"]].astype(spec["dtype"]) for spec in card["outputs"]}


def empty_output(engine: Any, context: Any, spec: dict[str, Any]) -> Any:  # noqa: ANN401 - of TensorRT; an array
    """Room for an output, in the engine's dtype."""
    shape = tuple(context.get_tensor_shape(spec["name"]))
    if min(shape, default=0) < 0:
        sys.exit(f"only running tells the shape of {spec['name']}: it needs an IOutputAllocator")
    return np.empty(shape, engine_dtype(engine, spec))


def main(pipeline: str, feeds: str = "", outputs: str = "") -> None:
    """Find it, check it, run it, and print what came out."""
    folder, card = find_promoted(Path(pipeline))
    plan = load_plan(folder, card)
    given = dict(np.load(feeds)) if feeds else usual_feeds(card)
    check_feeds(card, given)
    cuda.init()
    primary = cuda.Device(0).retain_primary_context()
    primary.push()
    try:
        engine = open_engine(plan, holds_code=bool(card["settings"].get("version_compatible")))
        found = run(engine, card, given)
        del engine
    finally:
        primary.pop()
        primary.detach()
    for name, array in found.items():
        print(f"{name}: {array.dtype}{list(array.shape)}, mean {array.mean() if array.size else 0:.6g}")
    if outputs:
        np.savez(outputs, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
