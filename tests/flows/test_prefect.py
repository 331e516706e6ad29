"""The same DAG as a Prefect flow, told to a real server; and without one, no Prefect at all."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tasks.core.outcome import RunOutcome
from tests.commands import BAD, TINY
from tests.prefect_database import Database
from tests.projects import ROOT, Project

STEPS = {
    *("inspect", "data", "export", "fold", "judge · exported", "judge · folded", "quantize · fp32", "judge · fp32"),
    *("build · onnxruntime/fp32", "parity · onnxruntime/fp32", "build · twin/fp32", "parity · twin/fp32"),
    *("facts", "benchmark", "promote"),
    *(f"charts · {name}" for name in ("hops", "latency", "pareto", "history")),
}
TWIN = {"engines": [{"runtime": "onnxruntime"}, {"runtime": "reference", "name": "twin"}]}
GATE = {"gates": {"parity": {"onnxruntime/fp32": BAD["gates"]["parity"]["fp32"]}}}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[httpx.Client]:
    """A client of a server of its own, which has its database in a temporary folder."""
    home = tmp_path_factory.mktemp("prefect")
    database.put(home)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_UI_API_URL": url,
        "PREFECT_SERVER_UI_ENABLED": "false",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        with httpx.Client(base_url=url, timeout=30) as client:
            _wait_until_it_answers(client, server, home / "log")
            yield client
    finally:
        os.killpg(server.pid, signal.SIGKILL)  # what it could still write is in a folder that nobody reads
        server.wait()


def _wait_until_it_answers(api: httpx.Client, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + 120
    while True:
        try:
            api.get("health", timeout=5).raise_for_status()
        except httpx.HTTPError:
            assert server.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        else:
            return


def ask(api: httpx.Client, kind: str, **question: object) -> list[dict[str, Any]]:
    answer = api.post(f"{kind}/filter", json=question)
    answer.raise_for_status()
    found: list[dict[str, Any]] = answer.json()
    return found


def flow_run(api: httpx.Client, name: str) -> dict[str, Any]:
    (found,) = ask(api, "flow_runs", flow_runs={"name": {"any_": [name]}})
    return found


def task_runs(api: httpx.Client, flow: dict[str, Any], count: int) -> dict[str, dict[str, Any]]:
    """The task runs of a flow run by name: the server hears of their ends a little later than the client."""
    deadline = time.monotonic() + 30
    while True:
        found = ask(api, "task_runs", flow_runs={"id": {"any_": [flow["id"]]}})
        ended = [run for run in found if run["end_time"]]
        if len(ended) >= count or time.monotonic() > deadline:
            return {run["name"]: run for run in found}
        time.sleep(0.2)


@pytest.mark.slow
def test_a_real_server_sees_the_flow_and_each_step(api: httpx.Client, done: Project, tmp_path: Path) -> None:
    project = done  # most steps are cached: what they make is not the point
    project.write(tiny={**TINY, **TWIN}, bad={**BAD, **TWIN, **GATE})
    told = ("env", f"PREFECT_API_URL={str(api.base_url).rstrip('/')}", f"PREFECT_HOME={tmp_path / 'home'}")

    finished = project.run("run", "--json", before=told)
    assert finished.code == 1, finished.stderr
    _check_what_passed(api, finished.runs["tiny"])
    _check_what_failed(api, finished.runs["bad"])


def _check_what_passed(api: httpx.Client, run: RunOutcome) -> None:
    assert run.status == "passed"
    flow = flow_run(api, f"tiny · {run.run[-6:]} · manual")
    assert run.promoted is not None
    assert (flow["state_type"], flow["state"]["message"]) == ("COMPLETED", run.promoted.reason)
    assert flow["tags"] == ["fp32", "onnxruntime", "reference", "tiny"]
    steps = task_runs(api, flow, len(STEPS))
    assert set(steps) == STEPS
    assert {step["state_type"] for step in steps.values()} == {"COMPLETED"}
    assert set(steps["build · onnxruntime/fp32"]["tags"]) == {"tiny", "onnxruntime", "fp32"}
    assert set(steps["parity · twin/fp32"]["tags"]) == {"tiny", "twin", "reference", "fp32"}
    needed = {given["id"] for given in steps["fold"]["task_inputs"]["values"]}
    assert needed == {steps["export"]["id"]}


def _check_what_failed(api: httpx.Client, run: RunOutcome) -> None:
    assert [engine.status for engine in run.engines] == ["failed", "passed"]
    flow = flow_run(api, f"bad · {run.run[-6:]} · manual")
    assert flow["state_type"] == "FAILED"
    assert flow["state"]["message"] == f"onnxruntime/fp32: {run.engines[0].reason}"
    steps = task_runs(api, flow, len(STEPS) - 3)
    # A single result that was timed has no front, and a first measurement no history.
    assert set(steps) == STEPS - {"promote", "charts · pareto", "charts · history"}
    assert {step["state_type"] for step in steps.values()} == {"COMPLETED"}


def test_a_server_that_does_not_answer_is_named(done: Project, tmp_path: Path) -> None:
    told = ("env", "PREFECT_API_URL=http://127.0.0.1:9/api", f"PREFECT_HOME={tmp_path / 'home'}")
    finished = done.run("run", "tiny", before=told)
    assert (finished.code, finished.stdout) == (1, "")
    assert "the Prefect API at http://127.0.0.1:9/api does not answer" in finished.stderr
    assert "unset PREFECT_API_URL: `trtflow run` needs no server" in finished.stderr


def test_without_a_server_prefect_is_not_imported(done: Project) -> None:
    code = "import sys; from flows.cli import run; run(['run', 'tiny', '--json']); print('prefect' in sys.modules)"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=done.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout.splitlines()[-1] == "False"
