"""Convert a model of 3 GB of weights, and watch every process: `make large` writes docs/evidence/large-model.json.

    .venv/bin/python benchmarks/large_model.py [--gb 3.0] [--precisions fp32,fp16,...] [--keep FOLDER] [--output FILE]

The model is a stack of MatMul, Add and Relu with a residual around each block, written weight by weight, so that making
it takes next to no memory. One `trtflow run --json` converts it to fp32, a second one to every precision, all optional
but fp32: what the libraries behind them cannot hold is refused. Exits 1 when fp32 does not pass, or a process of the
first run held more than 2.2 times the weights.

Peaks are VmHWM of /proc/PID/status, the most that was resident at a time: anonymous memory, pages of files (what is
mapped counts once it is touched, although the system can drop it) and shared memory. They are read twenty times a
second: what a process needed in its last 50 ms is not in them. RssAnon and RssFile are the largest that were seen.
"""

import argparse
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import yaml
from onnx import StringStringEntryProto, TensorProto, helper

sys.path.insert(0, str(Path(__file__).parents[1]))
from tasks.core.environment import environment
from tasks.core.memory import available_bytes
from tasks.core.outcome import RunsOutcome

ROOT = Path(__file__).resolve().parents[1]
WIDTH, HIDDEN, BATCH = 2048, 8192, 4
BLOCK_BYTES = 2 * 4 * WIDTH * HIDDEN
LIMIT = 2.2
SECONDS_BETWEEN_LOOKS = 0.05
KINDS = ("fp32", "fp16", "bf16", "int8", "fp8", "int4")
_DATA = "weights.bin"


@dataclass
class Peak:
    """The most that one process held, in bytes, and what it was doing."""

    command: str
    vm_hwm: int = 0
    rss_anon: int = 0
    rss_file: int = 0
    first_seen: float = 0.0
    last_seen: float = 0.0


@dataclass
class Watch:
    """Reads the memory of a process and of all below it until `stop` is set."""

    root: int
    stop: threading.Event = field(default_factory=threading.Event)
    peaks: dict[int, Peak] = field(default_factory=dict)
    begin: float = field(default_factory=time.monotonic)
    together: int = 0

    def run(self) -> None:
        """Look again and again."""
        while not self.stop.wait(SECONDS_BETWEEN_LOOKS):
            self.together = max(self.together, sum(self._look(pid) for pid in _below(self.root)))

    def _look(self, pid: int) -> int:
        try:
            status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return 0
        sizes = {
            key: int(value.split()[0]) * 1024
            for key, _, value in (line.partition(":") for line in status.splitlines())
            if key in ("VmHWM", "RssAnon", "RssFile")
        }
        now = time.monotonic() - self.begin
        peak = self.peaks.setdefault(pid, Peak(command, first_seen=round(now, 1)))
        peak.vm_hwm = max(peak.vm_hwm, sizes.get("VmHWM", 0))
        peak.rss_anon = max(peak.rss_anon, sizes.get("RssAnon", 0))
        peak.rss_file = max(peak.rss_file, sizes.get("RssFile", 0))
        peak.last_seen = round(now, 1)
        return sizes.get("RssAnon", 0)


def _below(root: int) -> list[int]:
    """A process and all that it started, directly or not."""
    parents: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        parents.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def write_model(folder: Path, blocks: int) -> int:
    """Write model.onnx and its weights, one weight at a time; returns the bytes of the weights."""
    nodes, initializers = [], []
    generator = np.random.default_rng(0)
    with (folder / _DATA).open("wb") as stream:
        for block in range(blocks):
            before = "x" if block == 0 else f"h{block - 1}"
            for name, shape in ((f"up{block}", (WIDTH, HIDDEN)), (f"down{block}", (HIDDEN, WIDTH))):
                # Each block adds about a third of what comes in: activations stay near 1 over any number of blocks.
                values = generator.standard_normal(shape, dtype=np.float32) * np.float32(0.5 / np.sqrt(shape[0]))
                place = {"location": _DATA, "offset": stream.tell(), "length": values.nbytes}
                values.tofile(stream)
                initializers.append(_external(name, shape, place))
            nodes += [
                helper.make_node("MatMul", [before, f"up{block}"], [f"wide{block}"], name=f"block{block}/up"),
                helper.make_node("Relu", [f"wide{block}"], [f"relu{block}"], name=f"block{block}/relu"),
                helper.make_node(
                    "MatMul", [f"relu{block}", f"down{block}"], [f"narrow{block}"], name=f"block{block}/down"
                ),
                helper.make_node("Add", [before, f"narrow{block}"], [f"h{block}"], name=f"block{block}/add"),
            ]
    value = helper.make_tensor_value_info
    inputs, outputs = [value("x", 1, ["batch", WIDTH])], [value(f"h{blocks - 1}", 1, ["batch", WIDTH])]
    graph = helper.make_graph(nodes, "mlp", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    samples = np.random.default_rng(1).standard_normal((2 * BATCH, WIDTH), dtype=np.float32)
    np.savez(folder / "calibration.npz", x=samples)
    return (folder / _DATA).stat().st_size


def _external(name: str, shape: tuple[int, ...], place: dict[str, object]) -> TensorProto:
    tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.extend(StringStringEntryProto(key=key, value=str(text)) for key, text in place.items())
    return tensor


def write_project(folder: Path, kinds: list[str]) -> None:
    """One pipeline; what is not fp32 may be refused."""
    precisions = [kind if kind == "fp32" else {kind: {"optional": True}} for kind in kinds]
    pipeline = {
        "model": {"onnx": "model.onnx"},
        "dims": {"batch": {"min": 1, "opt": BATCH, "max": 8}},
        "data": {"calibration": {"source": "calibration.npz"}},
        "precisions": precisions,
        "engines": [{"runtime": "onnxruntime"}],
        "benchmark": {"seconds": 1, "baselines": False},
    }
    text = yaml.safe_dump({"version": 1, "pipelines": {"large": pipeline}}, sort_keys=False)
    (folder / "pipelines.yaml").write_text(text, encoding="utf-8")


@dataclass
class Converted:
    """What one run of the command came to."""

    told: Mapping[str, object]
    largest: float
    problems: list[str]
    store_bytes: int


def convert(folder: Path, kinds: list[str], weights: int) -> Converted:
    """Run the command and watch it."""
    write_project(folder, kinds)
    begin = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli", "run", "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watch = Watch(process.pid)
    thread = threading.Thread(target=watch.run)
    thread.start()
    out, err = process.communicate()
    watch.stop.set()
    thread.join()
    if not out.startswith('{"runs"'):
        raise SystemExit(f"the command ended with {process.returncode}: {out}{err[-4000:]}")
    (run,) = RunsOutcome.model_validate_json(out).runs
    peaks = sorted(watch.peaks.values(), key=lambda peak: -peak.vm_hwm)
    required = [engine for engine in run.engines if engine.precision == "fp32"]
    told = {
        "seconds": round(time.monotonic() - begin, 1),
        "status": run.status,
        "largest_process_by_weights": round(peaks[0].vm_hwm / weights, 3),
        "largest_anonymous_of_all_together_by_weights": round(watch.together / weights, 3),
        "engines": {engine.id: {"status": engine.status, "reason": engine.reason} for engine in run.engines},
        "steps": [{"step": step.step, "status": step.status, "seconds": step.seconds} for step in run.steps],
        "processes": [asdict(peak) for peak in peaks[:8]],
        "said": err[-2000:],
    }
    problems = [f"{engine.id}: {engine.reason}" for engine in required if engine.status != "passed"]
    return Converted(told, peaks[0].vm_hwm / weights, problems, _on_disk(folder / "artifacts"))


def _on_disk(folder: Path) -> int:
    """Bytes of a folder's files, each counted once however many names it has."""
    files = {path.stat().st_ino: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    return sum(files.values())


def main() -> None:
    """Make the model, convert it, and say what the processes held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=3.0, help="weights in units of 10^9 bytes")
    parser.add_argument("--precisions", default=",".join(KINDS))
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/evidence/large-model.json")
    arguments = parser.parse_args()
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="trtflow-large-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        evidence = measure(folder, arguments.gb, arguments.precisions.split(","))
    finally:
        if not arguments.keep:
            shutil.rmtree(folder)
    print(json.dumps(evidence, indent=1))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(evidence, indent=1) + "\n", encoding="utf-8")
    if evidence["problems"]:
        raise SystemExit(str(evidence["problems"]))


def measure(folder: Path, gigabytes: float, kinds: list[str]) -> dict[str, object]:
    """Convert to fp32 alone, then to all precisions; fp32 is cached by then, so that what was held is the others'."""
    weights = write_model(folder, math.ceil(gigabytes * 1e9 / BLOCK_BYTES))
    memory = available_bytes()
    alone = convert(folder, ["fp32"], weights)
    others = convert(folder, kinds, weights) if kinds != ["fp32"] else None
    problems = list(alone.problems)
    if alone.largest > LIMIT:
        problems.append(f"a process held {alone.largest:.2f} times the weights, more than {LIMIT}")
    return {
        "command": f"python benchmarks/large_model.py --gb {gigabytes} --precisions {','.join(kinds)}",
        "date": datetime.now(UTC).date().isoformat(),
        "load_average": os.getloadavg(),
        "environment": environment().model_dump(mode="json"),
        "weights_bytes": weights,
        "store_bytes_with_fp32": alone.store_bytes,
        "memory_available_bytes": memory,
        "problems": problems,
        "fp32": alone.told,
        "all": others.told if others else None,
    }


if __name__ == "__main__":
    main()
