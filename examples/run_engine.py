"""Run what trtflow promoted, without trtflow: python run_engine.py STORE/PIPELINE [FEEDS.npz [OUTPUTS.npz]].

Needs numpy, pycuda and the TensorRT that made the engine. Without feeds, inputs of the usual size are filled with ones.
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
    """The folder of the engine that is in force, and its card."""
    current = json.loads((pipeline / "promoted.json").read_text(encoding="utf-8"))["current"]
    if current is None:
        sys.exit(f"nothing is promoted in {pipeline}")
    folder = pipeline.parent / current["artifact"]
    return folder, json.loads((folder / "card.json").read_text(encoding="utf-8"))


def load_plan(folder: Path, card: dict[str, Any]) -> bytes:
    """The engine's bytes, if they are the ones that the card tells of, for a TensorRT that is here."""
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


def run(plan: bytes, card: dict[str, Any], feeds: Arrays) -> Arrays:
    """One inference, from host memory to host memory."""
    logger = trt.Logger(trt.Logger.WARNING)
    trt.init_libnvinfer_plugins(logger, "")
    runtime = trt.Runtime(logger)
    if card["settings"].get("version_compatible"):
        runtime.engine_host_code_allowed = True  # such a plan holds code: its digest was compared before this
    engine = runtime.deserialize_cuda_engine(plan)
    context = engine.create_execution_context()
    stream, memory, outputs = cuda.Stream(), [], {}
    for spec in card["inputs"]:
        name, feed = spec["name"], np.ascontiguousarray(feeds[spec["name"]], spec["dtype"])
        if not context.set_input_shape(name, feed.shape):
            sys.exit(f"the engine does not take {name} as {feed.shape}")
        memory.append(cuda.to_device(feed))
        context.set_tensor_address(name, int(memory[-1]))
    for spec in card["outputs"]:
        shape = tuple(context.get_tensor_shape(spec["name"]))
        if min(shape, default=0) < 0:
            sys.exit(f"only running tells the shape of {spec['name']}: it needs an IOutputAllocator")
        outputs[spec["name"]] = cuda.pagelocked_empty(shape, spec["dtype"])
        memory.append(cuda.mem_alloc(max(outputs[spec["name"]].nbytes, 1)))
        context.set_tensor_address(spec["name"], int(memory[-1]))
    if not context.execute_async_v3(stream.handle):
        sys.exit("the engine did not run: TensorRT says why above")
    for output, address in zip(outputs.values(), memory[len(card["inputs"]) :], strict=True):
        cuda.memcpy_dtoh_async(output, address, stream)
    stream.synchronize()
    return {name: output.copy() for name, output in outputs.items()}


def main(pipeline: str, feeds: str = "", outputs: str = "") -> None:
    """Find it, check it, run it, and tell what came out."""
    folder, card = find_promoted(Path(pipeline))
    plan = load_plan(folder, card)
    cuda.init()
    primary = cuda.Device(0).retain_primary_context()
    primary.push()
    try:
        found = run(plan, card, dict(np.load(feeds)) if feeds else usual_feeds(card))
    finally:
        primary.pop()
        primary.detach()
    for name, array in found.items():
        print(f"{name}: {array.dtype}{list(array.shape)}, mean {array.mean():.6g}")
    if outputs:
        np.savez(outputs, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
