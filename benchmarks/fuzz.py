"""Feed trtflow what is nearly right, for minutes: `make fuzz` writes docs/evidence/fuzz.json.

    .venv/bin/python benchmarks/fuzz.py [--minutes 10] [--only TARGET ...] [--seed N] [--output FILE]

The targets are those of tests/fuzz: pipelines.yaml, report.json and request.json, run.json and promotions, index files
and sidecars, and what workers and their parent say to each other. Each gets the minutes. What does not hold is counted
by where it came from, with the smallest input, and the target goes on. Targets of an earlier run stay in the file
unless they are fuzzed again.
"""

import argparse
import hashlib
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from random import SystemRandom

from hypothesis import HealthCheck, Phase, given, seed, settings

sys.path.insert(0, str(Path(__file__).parents[1]))
from tasks.core.environment import environment
from tests.commands import fresh, fresh_torch
from tests.fuzz.targets import Target, targets
from tests.fuzz.world import Hung, World, make_world
from tests.projects import Project

ROOT = Path(__file__).resolve().parents[1]
# Hypothesis remembers what it has drawn: it is begun anew from the next seed before that grows large.
EXAMPLES_A_ROUND = 1000
LONGEST_INPUT = 400


@dataclass
class Tally:
    """What came of one target."""

    deadline: float
    examples: int = 0
    findings: dict[str, dict[str, object]] = field(default_factory=dict)

    @property
    def over(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() > self.deadline

    def add(self, error: BaseException, drawn: object) -> None:
        """Count a finding by where it was made."""
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if str(ROOT) in frame.filename]
        place = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames[-4:]))
        name = hashlib.sha256(f"{type(error).__name__}{place}".encode()).hexdigest()[:8]
        shown = repr(drawn)
        found = self.findings.setdefault(name, {"count": 0, "input": shown[:LONGEST_INPUT]})
        found |= {"error": f"{type(error).__name__}: {error}"[:LONGEST_INPUT], "place": place}
        found["count"] = int(str(found["count"])) + 1
        if len(shown) < len(str(found["input"])):
            found["input"] = shown


def main() -> None:
    """Fuzz, and write what came of it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(2**31))
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "evidence" / "fuzz.json")
    options = parser.parse_args()
    told = json.loads(options.output.read_text()) if options.output.is_file() else {"targets": {}}
    with tempfile.TemporaryDirectory(prefix="trtflow-fuzz-") as folder:
        for target in targets(*_worlds(Path(folder))):
            if options.only and target.name not in options.only:
                continue
            told["targets"][target.name] = run_target(target, options)
            told |= {"environment": environment().model_dump(mode="json"), "hypothesis": version("hypothesis")}
            options.output.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
            print(target.name, json.dumps(told["targets"][target.name], indent=1), flush=True)
    if any(found["findings"] for found in told["targets"].values()):
        sys.exit(1)


def _worlds(base: Path) -> Iterator[World]:
    for name, make in (("tiny", fresh), ("net", fresh_torch)):
        project: Project = make(base / f"{name}-made")
        finished = project.run("run", "--json")
        assert finished.code == 0, finished.stderr
        yield make_world(base / name, name, project.folder)


def run_target(target: Target, options: argparse.Namespace) -> dict[str, object]:
    """Fuzz one target until its minutes are over."""
    started, began = datetime.now(UTC), time.monotonic()
    tally = Tally(deadline=began + 60 * options.minutes)
    number = options.seed
    while not tally.over:
        _round(target, tally, number)
        number += 1
    return {
        "command": f"python benchmarks/fuzz.py --minutes {options.minutes:g} --seed {options.seed}",
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - began),
        "examples": tally.examples,
        "findings": list(tally.findings.values()),
    }


def _round(target: Target, tally: Tally, number: int) -> None:
    @seed(number)
    @settings(
        max_examples=EXAMPLES_A_ROUND,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(target.inputs)
    def holds(drawn: object) -> None:
        if tally.over:
            return
        tally.examples += 1
        try:
            target.check(drawn)
        except (Exception, Hung) as error:  # noqa: BLE001 - whatever it is, it is a finding
            tally.add(error, drawn)

    holds()


if __name__ == "__main__":
    main()
