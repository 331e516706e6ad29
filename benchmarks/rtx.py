"""Bring every typed graph of the examples to the real TensorRT-RTX parser and builder: `make rtx`, needs no GPU.

    .venv/bin/python benchmarks/rtx.py [PIPELINE ...] [--output docs/evidence/rtx.json]

Needs the extra `tensorrt-rtx`, and for the pipeline `minilm` the extra of that name. What is built is not run: there is
no GPU to run it on. A graph that is refused is listed with the reason. Exits 1, and writes nothing, unless every graph
of every pipeline was built or refused by TensorRT-RTX itself, and at least its fp32 was built.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from tasks.core.environment import environment
from tasks.core.outcome import EngineOutcome, RunsOutcome
from tasks.core.report import Report

ROOT = Path(__file__).resolve().parents[1]
PIPELINES = ("digits", "resnet18", "minilm")
# Beside those that the YAML lists: every kind that the example's data can make.
KINDS = ("fp32", "fp16", "bf16", "int8", "fp8")
ENGINES = [{"runtime": "tensorrt-rtx", "optional": True}]


def pipeline(found: dict[str, Any]) -> dict[str, Any]:
    """One pipeline of the examples, for TensorRT-RTX alone and in every kind, none of which fails the run."""
    listed = found["precisions"]
    named = [name if isinstance(name, str) else next(iter(name)) for name in listed]
    precisions = [*listed, *(kind for kind in KINDS if kind not in named)]
    return {**found, "precisions": precisions, "engines": ENGINES, "benchmark": {"seconds": 0.1, "baselines": False}}


def document(names: list[str], store: Path) -> str:
    """The YAML of the run."""
    examples = yaml.safe_load((ROOT / "pipelines.yaml").read_text(encoding="utf-8"))["pipelines"]
    pipelines = {}
    for name in names:
        pipelines[name] = {key: value for key, value in pipeline(examples[name]).items() if key != "promote"}
    return yaml.safe_dump({"version": 1, "store": str(store), "pipelines": pipelines}, sort_keys=False)


def as_a_user(path: Path) -> str:
    """What the command prints; with nothing that passes, the run fails, and that is no matter here."""
    command = (sys.executable, "-m", "flows.cli", "-f", str(path), "run", "--json")
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False).stdout


def run(names: list[str], folder: Path, command: Callable[[Path], str]) -> RunsOutcome:
    """Write the YAML, and run the command on it."""
    path = folder / "pipelines.yaml"
    path.write_text(document(names, folder / "store"), encoding="utf-8")
    (folder / "models").symlink_to(ROOT / "models")  # user modules are found from the folder of the YAML
    return RunsOutcome.model_validate_json(command(path))


def row(store: Path, name: str, engine: EngineOutcome) -> dict[str, Any]:
    """One line of the table; how long it took is told of what was built."""
    seconds = None
    if engine.artifact:
        report = Report.model_validate_json((store / engine.artifact / "report.json").read_bytes())
        seconds = round(report.seconds, 1) if report.step == "build" else None
    built = engine.status == "built" and seconds is not None
    return {
        "pipeline": name,
        "precision": engine.precision,
        "status": engine.status if built or engine.status == "error" else "refused",
        "size_bytes": engine.size_bytes if built else None,
        "seconds": seconds,
        "reason": engine.reason,
    }


def check(rows: list[dict[str, Any]], names: list[str]) -> None:
    """Refuse to write evidence of anything else than what is claimed."""
    for name in names:
        own = {line["precision"]: line for line in rows if line["pipeline"] == name}
        assert own.get("fp32", {}).get("status") == "built", own
        for line in own.values():
            assert line["status"] == "built" or "TensorRT" in line["reason"], line


def table(rows: list[dict[str, Any]]) -> str:
    """What is printed, and what the README shows."""
    lines = ["| pipeline | precision | built bytes | seconds | refused |", "|---|---|---|---|---|"]
    for line in rows:
        size = f"{line['size_bytes']:,}" if line["size_bytes"] else ""
        refused = "" if line["status"] == "built" else line["reason"].partition(" (")[0]
        seconds = "" if line["seconds"] is None else line["seconds"]
        lines.append(f"| {line['pipeline']} | {line['precision']} | {size} | {seconds} | {refused} |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None, command: Callable[[Path], str] = as_a_user) -> None:
    """Run, check, print and write the evidence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pipelines", nargs="*", default=list(PIPELINES), metavar="PIPELINE")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/evidence/rtx.json")
    parsed = parser.parse_args(arguments)
    names = list(parsed.pipelines)
    with tempfile.TemporaryDirectory(prefix="trtflow-rtx-") as scratch:
        folder = Path(scratch)
        outcome = run(names, folder, command)
        rows = [row(folder / "store", each.pipeline, engine) for each in outcome.runs for engine in each.engines]
    print(table(rows))
    check(rows, names)
    evidence = {
        "command": "make rtx" if names == list(PIPELINES) else f"python benchmarks/rtx.py {' '.join(names)}",
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment().model_dump(mode="json"),
        "tensorrt_rtx": version("tensorrt-rtx-cu13"),
        "what": "built for compute capability 8.9 without a GPU, run nowhere",
        "graphs": rows,
    }
    parsed.output.write_text(json.dumps(evidence, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
