"""Bring the real sentence encoder to every precision from nothing: `make minilm` writes docs/evidence/minilm.json.

    .venv/bin/python benchmarks/minilm.py [--output docs/evidence/minilm.json]

Needs the extra `minilm`. Exits 1, and writes nothing, unless int8 as it comes is refused, and the repaired one is
within the bounds that the README states.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from tasks.core.environment import environment
from tasks.core.outcome import EngineOutcome, RunOutcome, RunRecord, RunsOutcome
from tasks.core.report import Report
from tasks.sources.onnx_repair import RepairedMetrics, RepairReport

ROOT = Path(__file__).resolve().parents[1]
REL_L2, COSINE, DROP, SECONDS, FLOATED = 0.2, 0.98, 0.01, 90.0, 0.3


def run(store: Path) -> tuple[RunOutcome, RunRecord]:
    """Run the pipeline as a user does."""
    command = (sys.executable, "-m", "flows.cli", "run", "minilm", "--store", str(store), "--json")
    told = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False).stdout
    (outcome,) = RunsOutcome.model_validate_json(told).runs
    record = store / "minilm" / "runs" / outcome.run / "run.json"
    return outcome, RunRecord.model_validate_json(record.read_bytes())


def repair_of(store: Path) -> RepairReport:
    """What the one repair of the run reports."""
    (path,) = (store / "minilm" / "repair").glob("[!.]*/report.json")
    report = Report.model_validate_json(path.read_bytes())
    return RepairedMetrics.model_validate(report.metrics).repair


def check(outcome: RunOutcome, repair: RepairReport) -> None:
    """Refuse to write evidence of anything else than what is claimed."""
    engines = {engine.precision: engine for engine in outcome.engines}
    plain, repaired = engines["int8-as-it-comes"], engines["int8"]
    assert plain.status == "failed", plain.reason
    assert repaired.status == "passed", repaired.reason
    assert repaired.parity is not None
    assert repaired.metric is not None
    assert repaired.parity.vs_source.rel_l2 <= REL_L2
    assert repaired.parity.vs_source.cosine >= COSINE
    assert 1 - repaired.metric <= DROP
    assert repair.seconds <= SECONDS
    assert len(repair.floated) <= FLOATED * repair.quantized_nodes


def table(engines: tuple[EngineOutcome, ...]) -> str:
    """The README's table."""
    lines = ["| precision | size | error | cosine | metric | p50 ms | verdict |", "|---|---|---|---|---|---|---|"]
    for engine in engines:
        size = f"{engine.size_bytes / 1e6:.1f} MB" if engine.size_bytes else ""
        error = engine.parity.vs_source if engine.parity else None
        cells = [
            engine.precision,
            size,
            f"{error.rel_l2:.1e}" if error else "",
            f"{error.cosine:.4f}" if error else "",
            f"{engine.metric:.4f}" if engine.metric is not None else "",
            f"{engine.latency[0].p50_ms:.1f}" if engine.latency else "",
            engine.status,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run, check, print and write the evidence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=ROOT / "docs/evidence/minilm.json")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="trtflow-minilm-") as scratch:
        outcome, record = run(Path(scratch))
        repair = repair_of(Path(scratch))
    check(outcome, repair)
    evidence = {
        "command": "python benchmarks/minilm.py",
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment().model_dump(mode="json"),
        "seconds": outcome.seconds,
        "engines": [engine.model_dump(mode="json", exclude={"artifact"}) for engine in outcome.engines],
        "promoted": outcome.promoted.model_dump(mode="json", exclude={"key"}) if outcome.promoted else None,
        "notes": list(record.notes),
        "repair": repair.model_dump(mode="json"),
    }
    arguments.output.write_text(json.dumps(evidence, indent=1) + "\n", encoding="utf-8")
    print(table(outcome.engines))


if __name__ == "__main__":
    main()
