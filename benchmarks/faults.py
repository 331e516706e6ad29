"""Kill runs at random moments, and start runs against each other: `make faults` writes docs/evidence/faults.json.

    .venv/bin/python benchmarks/faults.py [--kills 40] [--warm-kills 20] [--races 5] [--seed 1] [--output FILE]

The pipeline is `digits` of pipelines.yaml with a short benchmark. The moment of a kill is drawn uniformly over the
length of a cold run. A kill starts from what the kill before it left in the store; every fourth one, and one behind a
run that ended before its moment came, starts from nothing. Warm kills start from a complete store, within the length of
a run that finds everything cached. Of five kills, four go to the whole process group and one to the main process alone,
as that of a system out of memory would. After each, the same store is run to its end. What must hold is checked, and
what did not is listed under `problems`; times are only told.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypedDict

import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from tasks.core.digests import sha256_file
from tasks.core.environment import environment
from tasks.core.errors import StoreError
from tasks.core.outcome import RunOutcome, RunsOutcome
from tasks.core.store import NOT_STEPS, read_report
from tests.processes import marked

ROOT = Path(__file__).resolve().parents[1]
PIPELINE = "digits"
BENCHMARK_SECONDS = 0.2
FRESH_EVERY = 4
ALONE_EVERY = 5
GRACE_SECONDS = 10.0
ARGUMENTS = ("kills", "warm_kills", "races", "seed")
MARK = "TRTFLOW_FAULTS"
# These stay by design, where /run/lock and /dev/shm are not to be written.
HOST_LOCK = {"trtflow.lock", "trtflow.turnstile"}


class Kill(TypedDict):
    """One kill and the run after it; `complete` counts the artifacts that were there before that run.

    `load` is the host's load average behind it: what else ran there shows in `rerun_s`.
    """

    moment_s: float
    scope: str
    start: str
    hit: bool
    complete: int
    left_by_kill: int
    cached_in_rerun: int
    made_in_rerun: int
    rerun_s: float
    load: float


class Race(TypedDict):
    """Two runs started at once on an empty store."""

    steps: int
    made_by_first: int
    made_by_second: int
    promotions: int
    wall_s: float


@dataclass(frozen=True)
class Plan:
    """When and how to kill; `start` is the store to start from: "nothing", "left" by the kill before, or "complete"."""

    name: str
    moment: float
    start: Literal["nothing", "left", "complete"]
    alone: bool


@dataclass
class Arena:
    """A project, its store, and a temporary folder of its own, all of which a run of it may touch."""

    folder: Path
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        shutil.copytree(ROOT / "models", self.folder / "models", ignore=shutil.ignore_patterns("__pycache__"))
        config = yaml.safe_load((ROOT / "pipelines.yaml").read_text())
        config["pipelines"] = {PIPELINE: config["pipelines"][PIPELINE]}
        config["pipelines"][PIPELINE]["benchmark"]["seconds"] = BENCHMARK_SECONDS
        (self.folder / "pipelines.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        self.temporary.mkdir()

    @property
    def store(self) -> Path:
        """The store."""
        return self.folder / "artifacts"

    @property
    def kept(self) -> Path:
        """The store as the last kill left it."""
        return self.folder / "kept"

    @property
    def temporary(self) -> Path:
        """The temporary folder of all runs."""
        return self.folder / "tmp"

    def start(self) -> "subprocess.Popen[str]":
        """Start a run in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", "--json", "run", PIPELINE],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(self.temporary), MARK: self.mark},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: "subprocess.Popen[str]", what: str) -> RunOutcome | None:
        """Wait for a run that nobody kills, and check how it ended."""
        out, err = process.communicate()
        self.expect(process.returncode == 0, f"{what}: ended with {process.returncode}: {err[-2000:]}")
        if process.returncode != 0:
            return None
        (outcome,) = RunsOutcome.model_validate_json(out).runs
        return outcome

    def expect(self, holds: object, problem: str) -> None:
        """Note a problem unless the promise holds."""
        if not holds:
            print(f"PROBLEM: {problem}", file=sys.stderr)
            self.problems.append(problem)

    def alive(self) -> list[str]:
        """Processes of any run, once they had time to go."""
        deadline = time.monotonic() + GRACE_SECONDS
        while (found := marked(f"{MARK}={self.mark}")) and time.monotonic() < deadline:
            time.sleep(0.05)
        return list(found.values())

    def end(self) -> None:
        """Leave nothing running when this script is interrupted."""
        for pid in marked(f"{MARK}={self.mark}"):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def hidden(self) -> list[str]:
        """Unfinished work in the store."""
        return [str(path) for path in self.store.rglob(".*") if path.suffix in (".partial", ".lock")]

    def check(self, what: str) -> None:
        """Nothing is left over, and every file of the store is what its report says."""
        self.expect(not (alive := self.alive()), f"{what}: still running: {alive}")
        temporary = [path.name for path in self.temporary.iterdir() if path.name not in HOST_LOCK]
        self.expect(not (hidden := self.hidden()), f"{what}: hidden files are left: {hidden}")
        self.expect(not temporary, f"{what}: temporary files are left: {temporary}")
        for folder in self.artifacts():
            self.expect(_intact(folder), f"{what}: {folder.name} is damaged")

    def artifacts(self) -> list[Path]:
        """Folders that have their final name."""
        steps = (path for path in (self.store / PIPELINE).glob("[!.]*/") if path.name not in NOT_STEPS)
        return [path for step in steps for path in step.glob("[!.]*/") if path.is_dir() and path.name != "index"]

    def promotions(self) -> int:
        """How many promotions were recorded."""
        return len(list((self.store / PIPELINE / "promotions").glob("[!.]*.json")))

    def prepare(self, start: Literal["nothing", "left", "complete"]) -> None:
        """Put the store into the state that is to be started from; after a run to its end it is complete."""
        if start != "complete":
            shutil.rmtree(self.store, ignore_errors=True)
        if start == "left" and self.kept.exists():
            shutil.copytree(self.kept, self.store)

    def keep(self) -> None:
        """Keep a copy of the store."""
        shutil.rmtree(self.kept, ignore_errors=True)
        if self.store.exists():
            shutil.copytree(self.store, self.kept)


def _intact(folder: Path) -> bool:
    try:
        return all(sha256_file(folder / record.name) == record.sha256 for record in read_report(folder).files)
    except (OSError, StoreError):
        return False


def _folders(outcome: RunOutcome, *, cached: bool) -> list[str]:
    """Artifacts that a run found, or made."""
    return [f"{step.step}/{step.key[:20]}" for step in outcome.steps if step.key and step.cached == cached]


def timed_run(arena: Arena, what: str) -> float:
    """How long a run that nobody disturbs takes."""
    begin = time.monotonic()
    arena.finish(arena.start(), what)
    seconds = time.monotonic() - begin
    arena.check(what)
    return seconds


def cold_kills(arena: Arena, moments: random.Random, longest: float, count: int) -> list[Kill]:
    """Kill until so many runs were hit at work."""
    kills: list[Kill] = []
    while sum(found["hit"] for found in kills) < count:
        number = len(kills)
        from_nothing = number % FRESH_EVERY == 0 or not kills[-1]["hit"]
        alone = number % ALONE_EVERY == ALONE_EVERY - 1
        plan = Plan(f"kill {number}", moments.uniform(0, longest), "nothing" if from_nothing else "left", alone)
        kills.append(kill(arena, plan))
    return kills


def warm_kills(arena: Arena, moments: random.Random, longest: float, count: int) -> list[Kill]:
    """Kill runs that find everything cached."""
    plans = [
        Plan(f"warm kill {number}", moments.uniform(0, longest), "complete", number % ALONE_EVERY == ALONE_EVERY - 1)
        for number in range(count)
    ]
    return [kill(arena, plan) for plan in plans]


def kill(arena: Arena, plan: Plan) -> Kill:
    """Start a run, kill it, keep a copy of the store for the next one, and run to the end."""
    arena.prepare(plan.start)
    hit = _run_and_kill(arena, plan)
    arena.expect(not (alive := arena.alive()), f"{plan.name}: still running: {alive}")
    arena.keep()
    complete = {f"{path.parent.name}/{path.name}" for path in arena.artifacts()}
    left = len(arena.hidden()) + len(list(arena.temporary.iterdir()))
    begin = time.monotonic()
    outcome = arena.finish(arena.start(), plan.name)
    seconds = time.monotonic() - begin
    arena.check(plan.name)
    made = _folders(outcome, cached=False) if outcome else []
    arena.expect(not complete.intersection(made), f"{plan.name}: made again: {complete.intersection(made)}")
    found: Kill = {
        "moment_s": round(plan.moment, 2),
        "scope": "main process" if plan.alone else "process group",
        "start": plan.start,
        "hit": hit,
        "complete": len(complete),
        "left_by_kill": left,
        "cached_in_rerun": len(_folders(outcome, cached=True)) if outcome else 0,
        "made_in_rerun": len(made),
        "rerun_s": round(seconds, 2),
        "load": round(os.getloadavg()[0], 1),
    }
    print(plan.name, json.dumps(found), file=sys.stderr)
    return found


def _run_and_kill(arena: Arena, plan: Plan) -> bool:
    """Whether the run was still at work when its moment came."""
    process = arena.start()
    try:
        process.communicate(timeout=plan.moment)
    except subprocess.TimeoutExpired:
        (os.kill if plan.alone else os.killpg)(process.pid, signal.SIGKILL)
        process.communicate()
        return True
    arena.expect(process.returncode == 0, f"{plan.name}: not killed, and ended with {process.returncode}")
    return False


def race(arena: Arena, number: int) -> Race:
    """Two runs at once: each step is made by one of them."""
    arena.prepare("nothing")
    begin = time.monotonic()
    both = [arena.start() for _ in range(2)]
    outcomes = [arena.finish(process, f"race {number}") for process in both]
    seconds = time.monotonic() - begin
    arena.check(f"race {number}")
    made = [_folders(outcome, cached=False) if outcome else [] for outcome in outcomes]
    counts = Counter(folder for folders in made for folder in folders)
    every = {f"{path.parent.name}/{path.name}" for path in arena.artifacts()}
    wrong = {folder: counts[folder] for folder in every | set(counts) if counts[folder] != 1}
    arena.expect(not wrong, f"race {number}: not made exactly once: {wrong}")
    arena.expect(arena.promotions() == 1, f"race {number}: {arena.promotions()} promotions")
    found: Race = {
        "steps": len(every),
        "made_by_first": len(made[0]),
        "made_by_second": len(made[1]),
        "promotions": arena.promotions(),
        "wall_s": round(seconds, 2),
    }
    print(f"race {number}", json.dumps(found), file=sys.stderr)
    return found


def main() -> None:
    """Do it all, and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, help="of runs that compute")
    parser.add_argument("--warm-kills", type=int, default=20, help="of runs that find everything cached")
    parser.add_argument("--races", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1, help="of the moments at which runs are killed")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/evidence/faults.json")
    options = parser.parse_args()
    evidence = measure(options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(evidence, indent=1) + "\n")
    print(json.dumps(evidence["summary"], indent=1))
    sys.exit(1 if evidence["problems"] else 0)


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Kill and race in a folder of their own."""
    started = datetime.now(UTC)
    moments = random.Random(options.seed)  # noqa: S311 - not for secrets
    with tempfile.TemporaryDirectory(prefix="trtflow-faults-") as folder:
        arena = Arena(Path(folder))
        try:
            cold, warm = timed_run(arena, "cold run"), timed_run(arena, "warm run")
            kills = cold_kills(arena, moments, cold, options.kills)
            kills += warm_kills(arena, moments, warm, options.warm_kills)
            races = [race(arena, number) for number in range(options.races)]
        finally:
            arena.end()
    arguments = " ".join(f"--{name.replace('_', '-')} {getattr(options, name)}" for name in ARGUMENTS)
    return {
        "command": f"python benchmarks/faults.py {arguments}",
        "started": started.isoformat(timespec="seconds"),
        "seconds": round((datetime.now(UTC) - started).total_seconds()),
        "environment": environment().model_dump(mode="json"),
        "summary": {"cold_run_s": round(cold, 2), "warm_run_s": round(warm, 2), **summary(kills, races)},
        "problems": arena.problems,
        "kills": kills,
        "races": races,
    }


def summary(kills: list[Kill], races: list[Race]) -> dict[str, object]:
    """Count what was tried."""
    hit = [found for found in kills if found["hit"]]
    return {
        "kills": len(hit),
        "kills_by_start": dict(Counter(found["start"] for found in hit)),
        "kills_by_scope": dict(Counter(found["scope"] for found in hit)),
        "runs_that_ended_before_their_moment": len(kills) - len(hit),
        "kills_that_left_unfinished_work": sum(found["left_by_kill"] > 0 for found in hit),
        "artifacts_complete_at_kills": sum(found["complete"] for found in hit),
        "longest_rerun_s": max((found["rerun_s"] for found in kills), default=0),
        "races": len(races),
        "races_in_which_both_made_something": sum(_both_made(found) for found in races),
    }


def _both_made(found: Race) -> bool:
    return found["made_by_first"] > 0 and found["made_by_second"] > 0


if __name__ == "__main__":
    main()
