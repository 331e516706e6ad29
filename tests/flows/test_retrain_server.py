"""From the announcement of a checkpoint to its conversion, on a real server: `trtflow up`, with a password."""

import hashlib
import importlib.util
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx
import pytest

from flows import callbacks
from flows.hooks import Server, model_retrained
from tests.commands import SOURCE, TORCH, fresh_torch
from tests.prefect_database import Database
from tests.projects import ROOT, linear
from tests.services import FINAL, Service, service, wait_for

LOGIN = "me:secret"


def onnx_with(folder: Path, name: str) -> Path:
    """A checkpoint of an ONNX pipeline that is like no other."""
    folder.mkdir(parents=True, exist_ok=True)
    model = linear("batch")
    model.graph.name = name
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def runs_of(up: Service, pipeline: str) -> list[dict[str, Any]]:
    """The flow runs of a pipeline, in the order in which they were asked for."""
    return up.ask("flow_runs", deployments={"name": {"any_": [pipeline]}}, sort="EXPECTED_START_TIME_ASC")


def fetched(up: Service, pipeline: str) -> None:
    """Wait until the first run has a copy of what was announced, or has ended."""

    def there() -> bool:
        return any(run["labels"].get("trtflow.checkpoint") or run["end_time"] for run in runs_of(up, pipeline))

    wait_for(there, lambda: up.text, pause=0.3)


def ended(up: Service, pipeline: str, count: int) -> list[dict[str, Any]]:
    """The flow runs of a pipeline, once there are so many that have ended."""

    def enough() -> bool:
        return sum(run["state_type"] in FINAL for run in runs_of(up, pipeline)) >= count

    wait_for(enough, lambda: f"{[(run['name'], run['state']) for run in runs_of(up, pipeline)]}\n{up.text}", pause=0.5)
    return runs_of(up, pipeline)


PIPELINES = ("notified", "hooked", "posted", "burst")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[Service]:
    project = fresh_torch(tmp_path_factory.mktemp("retrain") / "project")
    database.put(project.folder / ".trtflow")
    (project.folder / "linear.onnx").write_bytes(onnx_with(project.folder / "new", "first").read_bytes())
    waiting = {name: {**SOURCE, "on_retrain": True} for name in PIPELINES}
    taught = {name: {**TORCH, "on_retrain": True} for name in ("lightning", "hugging")}
    project.write(**waiting, **taught)
    with service(project, PREFECT_SERVER_API_AUTH_STRING=LOGIN) as started:
        yield started


def notified(up: Service) -> Path:
    path = onnx_with(up.project.folder / "new" / "notified", "notified")
    told = ("env", f"PREFECT_API_URL={up.url}", f"PREFECT_API_AUTH_STRING={LOGIN}")
    asked = up.project.start("notify", "notified", "--checkpoint", str(path), "--metadata", "by=notify", before=told)
    said = asked.communicate(timeout=60)
    assert asked.returncode == 0, said
    return path


def hooked(up: Service) -> Path:
    path = onnx_with(up.project.folder / "new" / "hooked", "hooked")
    model_retrained("hooked", path, metadata={"by": "hook"}, server=Server(up.url, LOGIN))
    return path


def posted(up: Service) -> Path:
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


def lightning(up: Service) -> Path:
    from tests.trainings import lightning_fit

    callback = callbacks.LightningCallback("lightning", server=Server(up.url, LOGIN))
    return Path(lightning_fit(up.project.folder / "new" / "lightning", callback))


def hugging(up: Service) -> Path:
    from tests.trainings import transformers_fit

    folder = up.project.folder / "new" / "hugging"
    transformers_fit(folder, callbacks.TransformersCallback("hugging", server=Server(up.url, LOGIN)))
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
def test_each_way_of_announcing_converts_what_was_announced(up: Service, send: Callable[[Service], Path]) -> None:
    path = send(up)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    pipeline = send.__name__
    fetched(up, pipeline)
    path.write_bytes(b"written to since")
    (run,) = ended(up, pipeline, 1)
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
def test_of_a_burst_the_newest_is_converted_and_none_twice(up: Service) -> None:
    folder = up.project.folder / "new" / "burst"
    paths = [onnx_with(folder / str(index), f"burst {index}") for index in range(5)]
    sent = [model_retrained("burst", path, server=Server(up.url, LOGIN)) for path in paths]
    runs = {run["parameters"]["event"]: run for run in ended(up, "burst", 5)}
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

    again = model_retrained("burst", paths[-1], server=Server(up.url, LOGIN))
    (run,) = [run for run in ended(up, "burst", 6) if run["parameters"]["event"] == str(again.id)]
    assert (run["state_type"], run["state"]["name"]) == ("COMPLETED", "AlreadyConverted")
    assert run["state"]["message"] == f"this checkpoint was converted by {last['name']} ({last['id']})"
    digest = hashlib.sha256(paths[-1].read_bytes()).hexdigest()
    assert [run.checkpoint.sha256 for run in records(up, "burst") if run.checkpoint].count(digest) == 1


def records(up: Service, pipeline: str) -> list[Any]:
    from tasks.core.outcome import RunRecord

    places = (up.project.store / pipeline / "runs").glob("*/run.json")
    return [RunRecord.model_validate_json(place.read_bytes()) for place in places]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"checkpoint": "/etc/hostname"}, "lies below none of the roots"),
        ({"checkpoint": "linear.onnx", "sha256": "0" * 64}, "was announced"),
        ({"checkpoint": "linear.onnx", "sha256": ""}, "is no sha256"),
        ({"checkpoint": "linear.onnx", "metadata": "epoch 12"}, "metadata is no JSON object"),
        ({"checkpoint": "linear.onnx", "metadata": {"a": {"__prefect_kind": "jinja"}}}, "metadata is no JSON object"),
        ({}, "the event names no checkpoint"),
    ],
)
def test_a_wrong_event_ends_as_a_run_that_says_so(up: Service, payload: dict[str, Any], message: str) -> None:
    """Sent past the senders, which would refuse it."""
    if "checkpoint" in payload:
        payload = {**payload, "checkpoint": str(up.project.folder / payload["checkpoint"])}
    body = {
        "event": "model.retrained",
        "id": os.urandom(16).hex(),
        "occurred": datetime.now(UTC).isoformat(),
        "resource": {"prefect.resource.id": "trtflow.pipeline.posted"},
        "payload": payload,
    }
    before = len(runs_of(up, "posted"))
    up.post("events", [body])
    found = ended(up, "posted", before + 1)
    assert found[-1]["state_type"] == "FAILED"
    assert message in found[-1]["state"]["message"]
