"""Compare a session with a bare hand-written loop on the same plan, in turns.

    python benchmarks/gpu_bare.py OUT ENGINE...

Runs where the GPU is, with tensorrt, pycuda and cuda-bindings. Each ENGINE is a folder with model.engine and card.json.
"""

import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from tasks.runtimes.base import OpenOptions, read_card
from tasks.runtimes.load import load_runtime, runtime_name

BATCHES = (1, 8, 32, 128)
TURNS, SECONDS = 20, 0.1


class Bare:
    """What one would write by hand: plan, context, buffers, one captured graph, two events."""

    def __init__(self, plan: Path, feeds: dict[str, Any]) -> None:
        import pycuda.driver as cuda
        import tensorrt as trt
        from cuda.bindings import driver

        self.cuda, self.driver = cuda, driver
        cuda.init()
        self.primary = cuda.Device(0).retain_primary_context()
        self.primary.push()
        self.stream = cuda.Stream()
        logger = trt.Logger(trt.Logger.ERROR)
        self.engine = trt.Runtime(logger).deserialize_cuda_engine(plan.read_bytes())
        self.context = self.engine.create_execution_context()
        self.held = []
        for name, feed in feeds.items():
            self.context.set_input_shape(name, feed.shape)
            memory = cuda.to_device(np.ascontiguousarray(feed))
            self.held.append(memory)
            self.context.set_tensor_address(name, int(memory))
        for index in range(self.engine.num_io_tensors):
            name = self.engine.get_tensor_name(index)
            if name in feeds:
                continue
            shape = tuple(self.context.get_tensor_shape(name))
            memory = cuda.mem_alloc(
                int(np.prod(shape)) * np.dtype(trt.nptype(self.engine.get_tensor_dtype(name))).itemsize
            )
            self.held.append(memory)
            self.context.set_tensor_address(name, int(memory))
        self.context.execute_async_v3(self.stream.handle)
        self.stream.synchronize()
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        driver.cuStreamBeginCapture(self.stream.handle, mode)
        self.context.execute_async_v3(self.stream.handle)
        _, captured = driver.cuStreamEndCapture(self.stream.handle)
        _, self.graph = driver.cuGraphInstantiate(captured, 0)

    def time(self, seconds: float) -> list[float]:
        """Milliseconds of each launch."""
        begin, end, found = self.cuda.Event(), self.cuda.Event(), []
        stop = time.perf_counter() + seconds
        while time.perf_counter() < stop:
            begin.record(self.stream)
            self.driver.cuGraphLaunch(self.graph, self.stream.handle)
            end.record(self.stream)
            end.synchronize()
            found.append(end.time_since(begin))
        return found


def main() -> None:
    """Write one line for each engine and batch."""
    out, *folders = sys.argv[1:]
    rows = []
    for folder in map(Path, folders):
        card = read_card(folder / "card.json")
        runtime = load_runtime(runtime_name(card.runtime))
        for batch in BATCHES:
            shape = [batch if isinstance(size, str) else size for size in card.inputs[0].shape]
            if any(dim.max < batch for dim in card.dims.values()):
                continue
            feeds = {card.inputs[0].name: np.random.default_rng(0).normal(size=shape).astype(card.inputs[0].dtype)}
            ours: list[float] = []
            bare: list[float] = []
            with runtime.open(folder / "model.engine", card, OpenOptions()) as session:
                other = Bare(folder / "model.engine", feeds)
                session.time(feeds, SECONDS), other.time(SECONDS)
                for _ in range(TURNS):
                    ours.append(statistics.median(session.time(feeds, SECONDS).nanoseconds) / 1e6)
                    bare.append(statistics.median(other.time(SECONDS)))
                other.primary.pop()
            rows.append(
                {
                    "precision": card.precision,
                    "batch": batch,
                    "ours_ms": statistics.median(ours),
                    "bare_ms": statistics.median(bare),
                    "ratio": statistics.median(one / two for one, two in zip(ours, bare, strict=True)),
                }
            )
            print(rows[-1], flush=True)
    Path(out).write_text(json.dumps({"command": " ".join(sys.argv), "rows": rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
