"""Look at a store of 1,000 runs and clear it: `make many-runs` writes docs/evidence/many-runs.json.

    .venv/bin/python benchmarks/many_runs.py [--runs 1000] [--real 20] [--output FILE]

The newest `--real` runs are real ones of a tiny ONNX pipeline whose model changes each time, so that every step makes
something new. The older ones are copies of their folders, with other ids, keys and times: a thousand real runs would
take hours, and to what reads a store a record is a record. Promotions are those of the real runs.

Then the commands as a user starts them, wall seconds of whole processes, medians of 5 (of 3 for what removes: each
needs a store of its own). `list`, `show` and `plan` are to take less than 1 s, `gc` less than 10 s. Processor seconds
are told too: on a busy host the wall clock tells of others.
"""

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import onnx
import yaml
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parents[1]))
from flows.journal import Journal
from flows.run import Run, RunOptions, run_pipeline
from tasks.core.environment import environment
from tasks.core.yaml_source import load_config
from tasks.runtimes.isolate import Workers

ROOT = Path(__file__).parents[1]
NAME = "tiny"
PIPELINE = {
    "model": {"onnx": "model.onnx"},
    "dims": {"batch": {"min": 1, "opt": 2, "max": 4}},
    "precisions": ["fp32"],
    "engines": [{"runtime": "onnxruntime"}, {"runtime": "reference"}],
    "benchmark": {"seconds": 0.02, "baselines": False},
}
_DIGEST = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{20})\b")
_BOUNDS = {"list": 1.0, "show": 1.0, "plan": 1.0, "plan, all changed": 1.0, "gc --dry-run": 10.0, "gc": 10.0}


def write_model(folder: Path, number: int) -> None:
    """Write y = x @ w, with other weights for each number."""
    weights = helper.make_tensor("w", TensorProto.FLOAT, [4, 3], [number / 100 + index for index in range(12)])
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("x", 4), ("y", 3))
    ]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", values[:1], values[1:], [weights])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), folder / "model.onnx"
    )


def run_really(project: Path, runs: int) -> list[str]:
    """Run the pipeline so often, in this process; returns the ids of the runs."""
    (project / "pipelines.yaml").write_text(yaml.safe_dump({"version": 1, "pipelines": {NAME: PIPELINE}}))
    config = load_config(project / "pipelines.yaml").pipelines[NAME]
    ids = []
    with Workers() as workers:
        for number in range(runs):
            write_model(project, number)
            run = Run(NAME, config, RunOptions(project / "artifacts", project), Journal())
            assert run_pipeline(run, workers).status == "passed", run.failure
            ids.append(run.id)
            print(f"real run {number + 1} of {runs}", file=sys.stderr)
    return ids


def multiply(store: Path, ids: list[str], runs: int) -> None:
    """Fill the store up with copies of the real runs, an hour apart, each with keys of its own."""
    begun = datetime.now(UTC) - timedelta(days=1)
    for number in range(runs - len(ids)):
        source = ids[number % len(ids)]
        when = begun - timedelta(hours=number)
        copy = f"{when:%Y%m%dT%H%M%S}.000Z-{number:06x}"
        record = (store / NAME / "runs" / source / "run.json").read_text()
        used = {folder.rpartition("/")[2]: folder for folder in json.loads(record)["artifacts"]}
        renamed = _Renamed(set(used), number)
        target = store / NAME / "runs" / copy
        target.mkdir()
        (target / "run.json").write_text(renamed.text(record).replace(source, copy))
        for key, folder in used.items():
            new = store / folder.replace(key, renamed.name(key))
            shutil.copytree(store / folder, new, ignore=shutil.ignore_patterns(".*"))
            report = (store / folder / "report.json").read_text()
            (new / "report.json").write_text(renamed.text(report))


class Taken(NamedTuple):
    """Of one command."""

    wall_s: float
    processor_s: float


class _Renamed:
    """Other keys in place of those of some artifacts."""

    def __init__(self, keys: set[str], number: int) -> None:
        self._keys = keys
        self._number = number

    def name(self, key: str) -> str:
        return hashlib.sha256(f"{key[:20]}-{self._number}".encode()).hexdigest()[: len(key)]

    def text(self, text: str) -> str:
        return _DIGEST.sub(lambda found: self.name(found[0]) if found[0][:20] in self._keys else found[0], text)


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def seconds(project: Path, *arguments: str) -> Taken:
    """What a command takes."""
    before = _processor()
    begin = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=project,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    taken = time.perf_counter() - begin
    assert ended.returncode == 0, ended.stderr
    return Taken(round(taken, 3), round(_processor() - before, 3))


def measure(project: Path) -> dict[str, list[Taken]]:
    """Time each command; what removes is given a copy of the store each time."""
    found: dict[str, list[Taken]] = {name: [] for name in _BOUNDS}
    for _ in range(5):
        found["list"].append(seconds(project, "list"))
        found["show"].append(seconds(project, "show", NAME))
        found["plan"].append(seconds(project, "plan", NAME))
        found["gc --dry-run"].append(seconds(project, "gc", "--dry-run"))
    for _ in range(3):
        shutil.copytree(project / "artifacts", project / "copy", symlinks=True)
        found["gc"].append(seconds(project, "--store", "copy", "gc"))
        shutil.rmtree(project / "copy")
    write_model(project, -1)
    found["plan, all changed"] = [seconds(project, "plan", NAME) for _ in range(5)]
    return found


def main() -> None:
    """Make the store, measure, and write what was found."""
    parser = argparse.ArgumentParser(description="Time the commands on a store of many runs.")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--real", type=int, default=20)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "evidence" / "many-runs.json")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trtflow-many-") as scratch:
        project = Path(scratch)
        multiply(project / "artifacts", run_really(project, parsed.real), parsed.runs)
        reports = len(list((project / "artifacts").glob("*/*/*/report.json")))
        found = measure(project)
    medians = {name: round(statistics.median(taken.wall_s for taken in times), 3) for name, times in found.items()}
    processor = {
        name: round(statistics.median(taken.processor_s for taken in times), 3) for name, times in found.items()
    }
    evidence = {
        "command": "make many-runs",
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "environment": environment().model_dump(mode="json"),
        "runs": parsed.runs,
        "of_them_real": parsed.real,
        "artifacts": reports,
        "median_s": medians,
        "median_processor_s": processor,
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "bound_s": _BOUNDS,
        "holds": {name: medians[name] < bound for name, bound in _BOUNDS.items()},
        "samples_s": {name: [taken.wall_s for taken in times] for name, times in found.items()},
    }
    parsed.output.write_text(json.dumps(evidence, indent=1) + "\n")
    print(json.dumps({"wall_s": medians, "processor_s": processor}, indent=1))


if __name__ == "__main__":
    main()
