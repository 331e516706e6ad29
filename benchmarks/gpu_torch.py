"""Time torch eager and torch.compile on the GPU, for the same network.

    python benchmarks/gpu_torch.py OUT

Runs where the GPU is, by an interpreter that has torch; CUDA events, inputs on the GPU.
"""

import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from models.resnet50 import build

BATCHES = (1, 8, 32, 128)
WARM, COUNT = 20, 200


def timed(run: Callable[[torch.Tensor], torch.Tensor], feed: torch.Tensor) -> float:
    """Median milliseconds of one call."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    found = []
    with torch.inference_mode():
        for index in range(WARM + COUNT):
            begin.record()
            run(feed)
            end.record()
            end.synchronize()
            if index >= WARM:
                found.append(float(begin.elapsed_time(end)))
    return statistics.median(found)


def main() -> None:
    """Write one line for each precision, way and batch."""
    rows = []
    for name, dtype in (("fp32", torch.float32), ("fp16", torch.float16)):
        model = build().eval().cuda().to(dtype)
        compiled = torch.compile(model, mode="reduce-overhead", dynamic=False)
        ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"eager": model, "compile": compiled}
        for way, run in ways.items():
            for batch in BATCHES:
                feed = torch.randn(batch, 3, 224, 224, device="cuda", dtype=dtype)
                rows.append({"precision": name, "way": way, "batch": batch, "ms": timed(run, feed)})
                print(rows[-1], flush=True)
    about = {"torch": torch.__version__, "gpu": torch.cuda.get_device_name(0)}
    text = json.dumps({"command": " ".join(sys.argv), **about, "rows": rows}, indent=1)
    Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
