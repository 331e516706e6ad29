"""From the announcement of a checkpoint to its conversion, on a real server: `trtflow up`, with a password."""

import hashlib
import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
import pytest

from flows import callbacks
from flows.hooks import Server, model_retrained
from tests.commands import SOURCE, TORCH, fresh_torch
from tests.loopback import http
from tests.prefect_database import Database
from tests.projects import ROOT, Project, linear

LOGIN = "me:secret"
_SECONDS = 150.0


def onnx_with(folder: Path, name: str) -> Path:
    """A checkpoint of an ONNX pipeline that is like no other."""
    folder.mkdir(parents=True, exist_ok=True)
    model = linear("batch")
    model.graph.name = name
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


@dataclass
class Running:
    """`trtflow up` at work on a project."""

    url: str
    project: Project

    @property
    def server(self) -> Server:
        return Server(self.url, LOGIN)

    def runs(self, pipeline: str) -> list[dict[str, Any]]:
        """The flow runs of a pipeline, in the order in which they were asked for."""
        question = {"deployments": {"name": {"any_": [pipeline]}}, "sort": "EXPECTED_START_TIME_ASC"}
        answer = http().post(f"{self.url}/flow_runs/filter", json=question, auth=("me", "secret"))
        answer.raise_for_status()
        found: list[dict[str, Any]] = answer.json()
        return found

    def fetched(self, pipeline: str) -> None:
        """Wait until the first run has a copy of what was announced, or has ended."""
        deadline = time.monotonic() + _SECONDS
        while not any(run["labels"].get("trtflow.checkpoint") or run["end_time"] for run in self.runs(pipeline)):
            assert time.monotonic() < deadline
            time.sleep(0.3)

    def ended(self, pipeline: str, count: int) -> list[dict[str, Any]]:
        """The same, once there are so many that have ended."""
        deadline = time.monotonic() + _SECONDS
        while True:
            found = self.runs(pipeline)
            over = [run for run in found if run["state_type"] in ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")]
            if len(over) >= count:
                return found
            assert time.monotonic() < deadline, [(run["name"], run["state"]) for run in found]
            time.sleep(0.5)


PIPELINES = ("notified", "hooked", "posted", "burst")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[Running]:
    project = fresh_torch(tmp_path_factory.mktemp("retrain") / "project")
    database.put(project.folder / ".trtflow")
    (project.folder / "linear.onnx").write_bytes(onnx_with(project.folder / "new", "first").read_bytes())
    waiting = {name: {**SOURCE, "on_retrain": True} for name in PIPELINES}
    taught = {name: {**TORCH, "on_retrain": True} for name in ("lightning", "hugging")}
    project.write(**waiting, **taught)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: text for name, text in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PYTHONPATH": str(ROOT), "PREFECT_SERVER_API_AUTH_STRING": LOGIN, "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "flows.cli", "up", "--port", str(port)]
    log = project.folder / "up.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(command, cwd=project.folder, env=environment, stdout=stream, stderr=stream)
    try:
        deadline = time.monotonic() + 120
        while "serving" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield Running(f"http://127.0.0.1:{port}/api", project)
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()


def notified(up: Running) -> Path:
    path = onnx_with(up.project.folder / "new" / "notified", "notified")
    told = ("env", f"PREFECT_API_URL={up.url}", f"PREFECT_API_AUTH_STRING={LOGIN}")
    said = up.project.execute("notify", "notified", "--checkpoint", str(path), "--metadata", "by=notify", before=told)
    assert said.code == 0, said.stderr
    return path


def hooked(up: Running) -> Path:
    path = onnx_with(up.project.folder / "new" / "hooked", "hooked")
    model_retrained("hooked", path, metadata={"by": "hook"}, server=up.server)
    return path


def posted(up: Running) -> Path:
    """As README.md shows it."""
    path = onnx_with(up.project.folder / "new" / "posted", "posted")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^(curl .*?/events.*?\]')$", readme, re.MULTILINE | re.DOTALL)
    line = line.replace("pipeline.digits", "pipeline.posted").replace("/models/runs/best.safetensors", str(path))

    def curl(login: str) -> "subprocess.CompletedProcess[str]":
        told = {**os.environ, "PREFECT_API_URL": up.url, "PREFECT_API_AUTH_STRING": login}
        return subprocess.run(["sh", "-c", line], env=told, capture_output=True, text=True, timeout=30, check=False)

    refused = curl("me:wrong")
    assert (refused.returncode, "401" in refused.stderr) == (22, True)
    assert curl(LOGIN).returncode == 0
    return path


def lightning(up: Running) -> Path:
    from tests.trainings import lightning_fit

    callback = callbacks.LightningCallback("lightning", server=up.server)
    return Path(lightning_fit(up.project.folder / "new" / "lightning", callback))


def hugging(up: Running) -> Path:
    from tests.trainings import transformers_fit

    folder = up.project.folder / "new" / "hugging"
    transformers_fit(folder, callbacks.TransformersCallback("hugging", server=up.server))
    return folder / "checkpoint-4" / "model.safetensors"


def _usable(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}")


SENDERS = [
    notified,
    hooked,
    posted,
    pytest.param(lightning, marks=_usable("lightning")),
    pytest.param(hugging, marks=_usable("transformers", "accelerate")),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of the libraries that train
@pytest.mark.parametrize("send", SENDERS)
def test_each_way_of_announcing_converts_what_was_announced(up: Running, send: Callable[[Running], Path]) -> None:
    path = send(up)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    pipeline = send.__name__
    up.fetched(pipeline)
    path.write_bytes(b"written to since")
    (run,) = up.ended(pipeline, 1)
    record = up.project.record(pipeline) if run["state_type"] == "COMPLETED" else None
    assert record, run["state"]
    assert run["name"] == f"{pipeline} · {run['id'][-6:]} · retrained"
    assert record.outcome.status == "passed"
    assert record.checkpoint is not None
    assert (record.checkpoint.given, record.checkpoint.sha256) == (str(path), digest)
    assert run["labels"]["trtflow.checkpoint"] == digest
    if send is posted:
        assert record.checkpoint.metadata == {"epoch": "12"}


@pytest.mark.slow
def test_of_a_burst_the_newest_is_converted_and_none_twice(up: Running) -> None:
    folder = up.project.folder / "new" / "burst"
    paths = [onnx_with(folder / str(index), f"burst {index}") for index in range(5)]
    sent = [model_retrained("burst", path, server=up.server) for path in paths]
    runs = {run["parameters"]["event"]: run for run in up.ended("burst", 5)}
    last = runs[str(sent[-1].id)]
    assert last["state_type"] == "COMPLETED"
    # One that began before the newest was heard of is left to finish; the others give way to one that is newer.
    others = [runs[str(each.id)] for each in sent[:-1]]
    assert sum(run["state_type"] == "COMPLETED" for run in others) <= 1
    given_way = [run for run in others if run["state_type"] != "COMPLETED"]
    assert {run["state_type"] for run in given_way} == {"CANCELLED"}
    assert all(run["state"]["message"].startswith("superseded by burst · ") for run in given_way)
    named = {run["state"]["message"].removeprefix("superseded by ").partition(" (")[0] for run in given_way}
    assert named <= {run["name"] for run in runs.values()}
    assert last["name"] in named

    again = model_retrained("burst", paths[-1], server=up.server)
    (run,) = [run for run in up.ended("burst", 6) if run["parameters"]["event"] == str(again.id)]
    assert (run["state_type"], run["state"]["name"]) == ("COMPLETED", "AlreadyConverted")
    assert run["state"]["message"] == f"this checkpoint was converted by {last['name']} ({last['id']})"
    digest = hashlib.sha256(paths[-1].read_bytes()).hexdigest()
    assert [run.checkpoint.sha256 for run in records(up, "burst") if run.checkpoint].count(digest) == 1


def records(up: Running, pipeline: str) -> list[Any]:
    from tasks.core.outcome import RunRecord

    places = (up.project.store / pipeline / "runs").glob("*/run.json")
    return [RunRecord.model_validate_json(place.read_bytes()) for place in places]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checkpoint", "sha256", "message"),
    [
        ("/etc/hostname", None, "lies below none of the roots"),
        ("{}/linear.onnx", "0" * 64, "was announced"),
        (None, None, "the event names no checkpoint"),
    ],
)
def test_a_wrong_event_ends_as_a_run_that_says_so(
    up: Running, checkpoint: str | None, sha256: str | None, message: str
) -> None:
    """Sent past the senders, which would refuse it."""
    before = len(up.runs("posted"))
    body = {
        "event": "model.retrained",
        "id": os.urandom(16).hex(),
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": "trtflow.pipeline.posted"},
        "payload": {"checkpoint": checkpoint.format(up.project.folder), "sha256": sha256} if checkpoint else {},
    }
    http().post(f"{up.url}/events", json=[body], auth=("me", "secret")).raise_for_status()
    runs = up.ended("posted", before + 1)
    assert runs[-1]["state_type"] == "FAILED"
    assert message in runs[-1]["state"]["message"]
