"""Bring six architectures to every precision: `make matrix` writes docs/evidence/precision-matrix.json.

    .venv/bin/python benchmarks/matrix.py [--only cnn,vit] [--precisions fp32,int8] [--output FILE]

Each architecture of tests/architectures.py is one `trtflow run --json` into an empty store. Every precision is
optional: one that a graph cannot have is refused, with the reason. What passed is checked here as well: a quantised
graph holds Q/DQ nodes, and the engine computes what its unoptimised graph does. Exits 1 when that does not hold.

vs_source: the engine against PyTorch. precision_cost: the typed graph against the folded one. runtime_cost: the
engine, as ONNX Runtime optimised it, against its typed graph unoptimised.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeAlias, TypedDict

import pydantic

sys.path.insert(0, str(Path(__file__).parents[1]))
from tasks.core.config_precision import PRECISIONS, PrecisionKind
from tasks.core.environment import environment, version_of
from tasks.core.outcome import EngineOutcome, HopOutcome, RunOutcome, RunsOutcome
from tasks.core.store import read_report
from tasks.core.tolerances import AGREEMENT
from tasks.sources.onnx_graph import load_graph
from tests.architectures import ARCHITECTURES, Architecture, write_project

ROOT = Path(__file__).resolve().parents[1]
KINDS = tuple(kind for kind in PRECISIONS if kind != "typed")
# The kinds whose graphs are nothing without Q/DQ nodes.
QUANTIZED: tuple[PrecisionKind, ...] = ("int8", "fp8", "int4")
TIMEOUT_SECONDS = 900
Status: TypeAlias = Literal["passed", "failed", "refused", "built", "not installed"]


class Cell(TypedDict):
    """What became of one precision of one architecture; what was not reached is None."""

    status: Status
    reason: str
    metric: float | None
    vs_source: dict[str, float] | None
    precision_cost: dict[str, float] | None
    runtime_cost: dict[str, float] | None
    runtime_cost_bound_rel_l2: float
    qdq_nodes: int | None
    typed_graph_bytes: int | None
    engine_bytes: int | None


class Row(TypedDict):
    """One architecture, its own run of the command, and its cells by precision."""

    status: str
    seconds: float
    source_metric: float | None
    cells: dict[PrecisionKind, Cell]


def convert(architecture: Architecture, kinds: Sequence[PrecisionKind], folder: Path) -> Row:
    """Run the command on one architecture."""
    name = architecture.name
    if architecture.missing:
        reason = f"{architecture.missing} is not installed: pip install {architecture.missing}"
        return {
            "status": "not installed",
            "seconds": 0.0,
            "source_metric": None,
            "cells": {kind: _empty(kind, "not installed", reason) for kind in kinds},
        }
    write_project(folder, architecture, [{kind: {"optional": True}} for kind in kinds])
    run = _run(name, folder)
    engines = {engine.precision: engine for engine in run.engines}
    store = folder / "artifacts" / name
    return {
        "status": run.status,
        "seconds": round(run.seconds, 1),
        "source_metric": _source_metric(store, run),
        "cells": {kind: _cell(kind, engines[kind], store) for kind in kinds},
    }


def _run(name: str, folder: Path) -> RunOutcome:
    command = (sys.executable, "-m", "flows.cli", "run", name, "--json")
    surroundings = {key: text for key, text in os.environ.items() if key != "PREFECT_API_URL"}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**surroundings, "PYTHONPATH": os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    try:
        (run,) = RunsOutcome.model_validate_json(done.stdout).runs
    except pydantic.ValidationError:
        raise SystemExit(f"{name}: the command ended with {done.returncode}:\n{done.stderr[-4000:]}") from None
    return run


def _source_metric(store: Path, run: RunOutcome) -> float | None:
    found: float | None = json.loads((store / "runs" / run.run / "run.json").read_bytes())["source_metric"]
    return found


def _empty(kind: PrecisionKind, status: Status, reason: str) -> Cell:
    return {
        "status": status,
        "reason": reason,
        "metric": None,
        "vs_source": None,
        "precision_cost": None,
        "runtime_cost": None,
        "runtime_cost_bound_rel_l2": AGREEMENT[kind],
        "qdq_nodes": None,
        "typed_graph_bytes": None,
        "engine_bytes": None,
    }


def _cell(kind: PrecisionKind, engine: EngineOutcome, store: Path) -> Cell:
    statuses: dict[str, Status] = {"passed": "passed", "failed": "failed", "built": "built"}
    cell = _empty(kind, statuses.get(engine.status, "refused"), engine.reason)
    cell["metric"], cell["engine_bytes"] = engine.metric, engine.size_bytes
    if engine.parity:
        cell["vs_source"] = _numbers(engine.parity.vs_source)
        cell["precision_cost"] = _numbers(engine.parity.precision_cost)
        cell["runtime_cost"] = _numbers(engine.parity.runtime_cost)
    typed = _typed_graph(kind, store)
    if typed:
        operators = [node.op_type for node in load_graph(typed).graph.node]
        cell["qdq_nodes"] = sum(operator in ("QuantizeLinear", "DequantizeLinear") for operator in operators)
        cell["typed_graph_bytes"] = sum(path.stat().st_size for path in typed.parent.glob("model.onnx*"))
    return cell


def _numbers(hop: HopOutcome) -> dict[str, float]:
    return dict(hop)


def _typed_graph(kind: PrecisionKind, store: Path) -> Path | None:
    """The model.onnx of the only artifact that `quantize` made of a precision in this store."""
    found = [path.parent for path in (store / "quantize").glob("[!.]*/report.json")]
    typed = [folder / "model.onnx" for folder in found if read_report(folder).subject == kind]
    assert len(typed) <= 1, typed
    return typed[0] if typed else None


def problems(name: str, row: Row) -> list[str]:
    """What of a passed cell does not hold."""
    found = []
    for kind, cell in row["cells"].items():
        place, cost = f"{name}/{kind}", cell["runtime_cost"]
        if cell["status"] != "passed":
            continue
        if kind in QUANTIZED and not cell["qdq_nodes"]:
            found.append(f"{place} passed, but its graph holds no Q/DQ node")
        if cost is None or not cost["rel_l2"] <= cell["runtime_cost_bound_rel_l2"]:
            rel_l2 = cost and cost["rel_l2"]
            found.append(f"{place} passed, but its runtime_cost is {rel_l2}, above {cell['runtime_cost_bound_rel_l2']}")
    return found


def show(kinds: Sequence[PrecisionKind], rows: dict[str, Row]) -> None:
    """Print the matrix, and below it the reasons of what did not pass."""
    texts = {name: {kind: _shown(cell) for kind, cell in row["cells"].items()} for name, row in rows.items()}
    width = max(len(text) for row in texts.values() for text in row.values()) + 2
    print(" " * 10 + "".join(kind.ljust(width) for kind in kinds))
    for name, row in texts.items():
        print(name.ljust(10) + "".join(row[kind].ljust(width) for kind in kinds))
    for name, cells in rows.items():
        for kind, cell in cells["cells"].items():
            if cell["status"] != "passed":
                print(f"{name}/{kind} {cell['status']}: {cell['reason']}")


def _shown(cell: Cell) -> str:
    if cell["status"] != "passed" or cell["vs_source"] is None:
        return cell["status"]
    metric = "" if cell["metric"] is None else f", {cell['metric']:.3f}"
    return f"passed ({cell['vs_source']['rel_l2']:.1e}{metric})"


def _chosen(text: str, known: Sequence[str]) -> list[str]:
    names = text.split(",")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise SystemExit(f"unknown: {', '.join(unknown)}; there are {', '.join(known)}")
    return [name for name in known if name in names]


def main() -> None:
    """Run, print, write the evidence, and say what does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ARCHITECTURES), help="architectures, with commas")
    parser.add_argument("--precisions", default=",".join(KINDS), help="kinds, with commas")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/evidence/precision-matrix.json")
    arguments = parser.parse_args()
    names = _chosen(arguments.only, tuple(ARCHITECTURES))
    kinds = [kind for kind in KINDS if kind in _chosen(arguments.precisions, KINDS)]
    rows: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(prefix="trtflow-matrix-") as scratch:
        for name in names:
            rows[name] = convert(ARCHITECTURES[name], kinds, Path(scratch) / name)
            print(f"{name}: {rows[name]['status']} in {rows[name]['seconds']} s", file=sys.stderr)
    show(kinds, rows)
    wrong = [problem for name, row in rows.items() for problem in problems(name, row)]
    evidence = {
        "command": f"python benchmarks/matrix.py --only {','.join(names)} --precisions {','.join(kinds)}",
        "date": datetime.now(UTC).date().isoformat(),
        "load_average": os.getloadavg(),
        "environment": environment().model_dump(mode="json"),
        "transformers": version_of("transformers"),
        "problems": wrong,
        "architectures": rows,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(evidence, indent=1) + "\n", encoding="utf-8")
    if wrong:
        raise SystemExit("\n".join(wrong))


if __name__ == "__main__":
    main()
