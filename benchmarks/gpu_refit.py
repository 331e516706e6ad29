"""Build one engine cold, again with what was timed, and refit it for other weights.

    python benchmarks/gpu_refit.py OUT TYPED.onnx GOLDEN.safetensors SCRATCH

Runs where the GPU is. The model takes one input `image` of [batch, 3, 224, 224], with batch from 1 over 8 to 128.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from tasks.core.environment import gpu_host
from tasks.core.signature import DimRange, InputSpec, Signature
from tasks.core.tensors import load_batches
from tasks.runtimes.base import BuildMetrics, BuildRequest, EarlierBuild, OpenOptions, read_card
from tasks.runtimes.load import load_runtime

SIGNATURE = Signature(
    inputs={"image": InputSpec(dtype="float32", shape=("batch", 3, 224, 224))},
    dims={"batch": DimRange(min=1, opt=8, max=128)},
)


def retrained(model: Path, path: Path) -> Path:
    """The same graph with every weight a little different."""
    graph = onnx.load(model)
    random = np.random.default_rng(0)
    for tensor in graph.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.dtype.kind == "f" and array.size > 1:
            noisy = array * random.uniform(0.99, 1.01, array.shape).astype(array.dtype)
            tensor.CopyFrom(numpy_helper.from_array(noisy.astype(array.dtype), tensor.name))
    onnx.save(graph, path)
    return path


def main() -> None:
    """Write seconds and ways."""
    out, model, golden, scratch = map(Path, sys.argv[1:])
    runtime = load_runtime("tensorrt")
    rows: dict[str, dict[str, object]] = {}
    engines: dict[str, Path] = {}

    def build(name: str, graph: Path, caches: Path, earlier: tuple[EarlierBuild, ...], **options: bool) -> BuildMetrics:
        folder = scratch / name
        folder.mkdir(parents=True)
        engines[name] = folder
        request = BuildRequest(
            runtime="tensorrt",
            model=graph,
            precision="fp16",
            signature=SIGNATURE,
            golden=golden,
            host=gpu_host(),
            options={"device": "cuda", **options},
            folder=folder,
            timing_caches=caches,
            earlier=earlier,
        )
        begin = time.monotonic()
        metrics = runtime.build(request, folder)
        wall = time.monotonic() - begin
        rows[name] = {"wall_seconds": round(wall, 2), "seconds": metrics.seconds, "way": metrics.way}
        rows[name] |= {"reason": metrics.way_reason, "timing_cache": str(metrics.timing_cache)}
        print(name, rows[name], flush=True)
        return metrics

    cold = build("cold", model, scratch / "caches", (), refittable=True)
    build("warm", model, scratch / "caches", (), refittable=True)
    before = EarlierBuild(
        structure=cold.structure,
        artifact="cold",
        folder=engines["cold"],
        built_seconds=cold.seconds,
        cold_seconds=cold.seconds,
    )
    other = retrained(model, scratch / "retrained.onnx")
    build("refit", other, scratch / "caches", (before,), refittable=True)
    build("rebuilt", other, scratch / "caches", (), refittable=True)
    feeds = load_batches(golden)[0]
    outputs = {}
    for name in ("cold", "refit", "rebuilt"):
        card = read_card(engines[name] / "card.json")
        with runtime.open(engines[name] / "model.engine", card, OpenOptions()) as session:
            outputs[name] = session.infer(feeds)["logits"].astype(np.float64)
    for one, two in (("refit", "rebuilt"), ("refit", "cold")):
        distance = np.linalg.norm(outputs[one] - outputs[two]) / np.linalg.norm(outputs[two])
        rows[f"{one} against {two}"] = {"rel_l2": float(distance)}
    out.write_text(json.dumps({"command": " ".join(sys.argv), **gpu_host(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
