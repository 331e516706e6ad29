"""Measure `trtflow up` and `trtflow deploy` on this machine: `make operations` writes docs/evidence/operations.json.

    .venv/bin/python benchmarks/operations.py [--only PART ...] [--output FILE]

first step  from the sender's call to the first step of the run that it caused, `digits`, five times
modes       `trtflow run digits` from nothing, in process and told to a server that is up, in turns, three pairs
deploy      200 pipelines with a schedule and a trigger each: from nothing, again, and 199 of them removed
burst       50 events for 10 pipelines in 10 s: what each became, and whether that is what the rule says
beside      what computes beside CPU benchmarks (`beside.py`), with a `kill -9` of a run in the middle of its own
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.beside import Recorder  # noqa: E402 - found by the line above
from benchmarks.digits_alone import digits_alone  # noqa: E402
from flows.hooks import Server, model_retrained  # noqa: E402
from tasks.core.environment import environment  # noqa: E402
from tests.commands import SOURCE  # noqa: E402
from tests.projects import Project, linear  # noqa: E402
from tests.services import FINAL, Service, service, wait_for  # noqa: E402

BURST = tuple(f"p{number}" for number in range(10))
PAIRS, EVENTS, DEPLOYED = 3, 5, 200
_BOUNDS = {"first step": 5.0, "modes": 3.0, "deploy": 60.0}


def main() -> None:
    """Run the parts, and write after each what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--output", type=Path, default=ROOT / "docs/evidence/operations.json")
    arguments = parser.parse_args()
    found: dict[str, Any] = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    found |= {"command": "make operations", "bound_s": _BOUNDS, "environment": environment().model_dump(mode="json")}
    with tempfile.TemporaryDirectory(prefix="trtflow-operations-") as scratch:
        project = _project(Path(scratch) / "project")
        locks = Path(scratch) / "locks"
        locks.mkdir()
        os.environ["TRTFLOW_LOCKS"] = str(locks)
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        with service(project) as up:
            for part in arguments.only:
                print(part, file=sys.stderr)
                found[part] = PARTS[part](up) | {"at": datetime.now(UTC).isoformat(timespec="seconds")}
                arguments.output.write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps({part: found[part] for part in arguments.only}, indent=1))


def _project(folder: Path) -> Project:
    """The digits example, and ten pipelines that take a moment, all converted after every retraining."""
    project, digits = digits_alone(folder)
    onnx.save(linear("batch"), folder / "linear.onnx")
    small = {**SOURCE, "benchmark": {"seconds": 0.3, "baselines": False}, "on_retrain": True}
    project.write(digits=digits, **dict.fromkeys(BURST, small))
    return project


def _events(up: Service) -> dict[str, Any]:
    """Seconds from the call that announces to the start of the first task run."""
    seconds = []
    for number in range(EVENTS):
        checkpoint = up.project.folder / f"models/new-{number}.safetensors"  # where the YAML lets events name files
        # Other bytes, the same network: the header of safetensors may be followed by spaces.
        checkpoint.write_bytes(_padded((up.project.folder / "models/digits.safetensors").read_bytes(), number + 1))
        begin = time.time()
        sent = model_retrained("digits", checkpoint, server=Server(up.url))
        seconds.append(round(_first_step(up, str(sent.id)) - begin, 2))
        run = _run_of(up, "digits", str(sent.id))
        assert up.wait(run["id"])["state_type"] == "COMPLETED", up.text
    return {"seconds": seconds, "largest": max(seconds), "holds": max(seconds) <= _BOUNDS["first step"]}


def _padded(content: bytes, spaces: int) -> bytes:
    size = int.from_bytes(content[:8], "little")
    return (size + spaces).to_bytes(8, "little") + content[8 : 8 + size] + b" " * spaces + content[8 + size :]


def _run_of(up: Service, pipeline: str, event: str) -> dict[str, Any]:
    found: list[dict[str, Any]] = []

    def there() -> bool:
        runs = up.ask("flow_runs", deployments={"name": {"any_": [pipeline]}})
        found[:] = [run for run in runs if run["parameters"].get("event") == event]
        return bool(found)

    wait_for(there, lambda: up.text, pause=0.3)
    return found[0]


def _first_step(up: Service, event: str) -> float:
    run, steps = _run_of(up, "digits", event), [0.0]

    def begun() -> bool:
        tasks = up.ask("task_runs", flow_runs={"id": {"any_": [run["id"]]}})
        starts = [datetime.fromisoformat(task["start_time"]).timestamp() for task in tasks if task["start_time"]]
        steps[0] = min(starts, default=0.0)
        return bool(starts)

    wait_for(begun, lambda: up.text, pause=0.3)
    return steps[0]


def _modes(up: Service) -> dict[str, Any]:
    """Seconds of whole processes, each on an empty store; which one comes first changes from pair to pair."""
    told = {"in process": {}, "told to a server": {"PREFECT_API_URL": up.url}}
    taken: dict[str, list[float]] = {name: [] for name in told}
    for pair in range(PAIRS):
        for name in sorted(told, reverse=bool(pair % 2)):
            taken[name].append(_timed(up.project.folder, told[name], "--store", f"{name}-{pair}", "run", "digits"))
    more = [told - here for told, here in zip(taken["told to a server"], taken["in process"], strict=True)]
    middle = round(statistics.median(more), 2)
    return {"seconds": taken, "median_of_differences": middle, "holds": middle <= _BOUNDS["modes"]}


def _timed(folder: Path, told: dict[str, str], *arguments: str) -> float:
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PREFECT_")}
    begin = time.perf_counter()
    ended = subprocess.run(
        [sys.executable, "-m", "flows.cli", *arguments],
        cwd=folder,
        env={**kept, **told, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return round(time.perf_counter() - begin, 2)


def _deploy(up: Service) -> dict[str, Any]:
    """Seconds of whole processes, beside the server that they talk to."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        onnx.save(linear("batch"), project.folder / "linear.onnx")
        nightly = {**SOURCE, "schedule": {"cron": "30 2 * * *"}, "on_retrain": True}
        told = {"PREFECT_API_URL": up.url}
        project.write(**{f"many{number}": nightly for number in range(DEPLOYED)})
        taken = {"new": _timed(project.folder, told, "deploy"), "again": _timed(project.folder, told, "deploy")}
        project.write(many0=nightly)
        taken["removed"] = _timed(project.folder, told, "deploy")
    return {"seconds": taken, "holds": taken["new"] <= _BOUNDS["deploy"]}


def _burst(up: Service) -> dict[str, Any]:
    """Five events for each pipeline, one every 0.2 s, then what became of each."""
    begin = time.monotonic()
    with ThreadPoolExecutor(8) as senders:  # as many trainings would: the next one does not wait for the answer
        calls = [senders.submit(_announce, up, number, begin) for number in range(50)]
    sent = {name: [call.result() for call in calls[index :: len(BURST)]] for index, name in enumerate(BURST)}
    sending = time.monotonic() - begin
    wait_for(lambda: _ended(up) >= 50, lambda: up.text, seconds=600, pause=1)
    ended = time.monotonic() - begin
    wrong = [problem for pipeline, events in sent.items() for problem in _against_the_rule(up, pipeline, events)]
    states = Counter(run["state"]["name"] for pipeline in BURST for run in _runs(up, pipeline))
    told = {"seconds_of_sending": round(sending, 1), "seconds_until_all_ended": round(ended, 1), "states": states}
    return {**told, "against_the_rule": wrong, "holds": not wrong}


def _announce(up: Service, number: int, begin: float) -> str:
    pipeline = BURST[number % len(BURST)]
    path = _checkpoint(up, f"{pipeline}-{number}")
    time.sleep(max(0.0, begin + number * 0.2 - time.monotonic()))
    return str(model_retrained(pipeline, path, server=Server(up.url)).id)


def _checkpoint(up: Service, name: str) -> Path:
    """An ONNX file that is like no other."""
    path = up.project.folder / f"{name}.onnx"
    model = linear("batch")
    model.graph.name = name
    onnx.save(model, path)
    return path


def _runs(up: Service, pipeline: str) -> list[dict[str, Any]]:
    return up.ask("flow_runs", deployments={"name": {"any_": [pipeline]}})


def _ended(up: Service) -> int:
    return sum(run["state_type"] in FINAL for pipeline in BURST for run in _runs(up, pipeline))


def _against_the_rule(up: Service, pipeline: str, events: list[str]) -> list[str]:
    """The newest is converted; another one only if it began before the next was heard of; the rest gave way to one."""
    runs = {run["parameters"]["event"]: run for run in _runs(up, pipeline)}
    if set(runs) != set(events) or len(_runs(up, pipeline)) != len(events):
        return [f"{pipeline}: {len(_runs(up, pipeline))} runs for {len(events)} events"]
    wrong = []
    for event, following in zip(events, [*events[1:], None], strict=True):
        run, newer = runs[event], runs[following] if following else None
        state, said = run["state_type"], run["state"]["message"] or ""
        if newer is None and state != "COMPLETED":
            wrong.append(f"{run['name']}: the newest, and {state}: {said}")
        elif state == "CANCELLED" and not said.startswith("superseded by "):
            wrong.append(f"{run['name']}: cancelled: {said}")
        elif newer and state == "COMPLETED" and run["start_time"] > newer["created"]:
            wrong.append(f"{run['name']}: began after a newer one was known, and was converted")
        elif state not in ("COMPLETED", "CANCELLED"):
            wrong.append(f"{run['name']}: {state}: {said}")
    return wrong


def _beside(up: Service) -> dict[str, Any]:
    """Several runs at once, each with new results to time; one is killed while it holds the lock alone."""
    lock = Path(os.environ["TRTFLOW_LOCKS"]) / "trtflow.lock"
    with Recorder(lock, up.project.mark) as recorder:
        keys = [_asked(up, number) for number in range(6)]
        wait_for(lambda: recorder.holder() is not None, lambda: up.text, pause=0.01)
        killed = recorder.holder()
        assert killed is not None
        time.sleep(0.5)
        os.kill(killed, signal.SIGKILL)
        ended = [up.wait(key)["state_type"] for key in keys]
    stretches = [stretch for stretch in recorder.stretches if stretch.seconds > 0]
    total = sum(stretch.seconds for stretch in stretches)
    spent: Counter[str] = Counter()
    for stretch in stretches:
        spent.update(stretch.seconds_of)
    return {
        "states": Counter(ended),
        "benchmarks": len(stretches),
        "seconds_held_alone": round(total, 2),
        "processor_seconds": _rounded(spent),
        "stretches": [
            {
                "seconds": round(stretch.seconds, 2),
                "killed": stretch.holder == killed,
                "processor_seconds": _rounded(stretch.seconds_of),
            }
            for stretch in stretches
        ],
        "holds": spent["steps of other runs"] == 0,
    }


def _rounded(seconds_of: Mapping[str, float]) -> dict[str, float]:
    return {name: round(seconds, 3) for name, seconds in sorted(seconds_of.items())}


def _asked(up: Service, number: int) -> str:
    """Start a run of `digits`, or of a small pipeline, that finds nothing of what it is to make."""
    if number % 3 == 0:
        return up.start_run("convert/digits", rebenchmark=True)
    path = _checkpoint(up, f"beside-{number}")
    return up.start_run(f"convert/{BURST[number]}", checkpoint=str(path))


PARTS: dict[str, Callable[[Service], dict[str, Any]]] = {
    "first step": _events,
    "modes": _modes,
    "deploy": _deploy,
    "burst": _burst,
    "beside": _beside,
}

if __name__ == "__main__":
    main()
