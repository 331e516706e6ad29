"""`trtflow run` beside Prefect: a server that is not there, and none at all."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.ahead import begun_ahead
from flows.journal import Journal
from flows.prefect_settings import keep_quiet
from flows.run import Run, RunOptions
from flows.submit import run_step
from tasks.core.locks import HostLock
from tasks.core.yaml_source import load_config
from tasks.data import prepare_data
from tasks.inspect import signature_of
from tasks.runtimes.isolate import Workers
from tests.commands import fresh_torch
from tests.prefect_stand_in import stand_in
from tests.projects import ROOT, Project
from tests.services import wait_for


def test_a_server_that_does_not_answer_is_named(done: Project, tmp_path: Path) -> None:
    told = ("env", "PREFECT_API_URL=http://127.0.0.1:9/api", f"PREFECT_HOME={tmp_path / 'home'}")
    finished = done.run("run", "tiny", before=told)
    assert (finished.code, finished.stdout) == (1, "")
    assert "the Prefect API at http://127.0.0.1:9/api does not answer" in finished.stderr
    assert "unset PREFECT_API_URL: `trtflow run` needs no server, `trtflow up` starts one" in finished.stderr


def test_a_proxy_is_left_out_for_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "example.com")
    monkeypatch.setenv("PREFECT_API_URL", "http://elsewhere:4200/api")
    keep_quiet()
    assert os.environ["NO_PROXY"] == "example.com"
    monkeypatch.setenv("PREFECT_API_URL", "http://localhost:4200/api")
    keep_quiet()
    keep_quiet()
    assert os.environ["NO_PROXY"] == "example.com,127.0.0.1,localhost,::1"
    monkeypatch.delenv("no_proxy")


def join_ahead() -> None:
    for ahead in [thread for thread in threading.enumerate() if thread.name == "ahead"]:
        ahead.join(20)
        assert not ahead.is_alive()


def interrupted_once(happened: Callable[[], bool]) -> None:
    wait_for(happened, lambda: "it did not happen")
    raise KeyboardInterrupt


def test_what_waits_for_another_runs_benchmark_ends_with_an_interrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = fresh_torch(tmp_path / "project")
    config = load_config(project.folder / "pipelines.yaml").pipelines["net"]
    run = Run("net", config, RunOptions(project.store, project.folder), Journal())
    monkeypatch.setenv("TRTFLOW_LOCKS", str(tmp_path))
    with stand_in() as server, HostLock().hold("exclusive", threading.Event()), Workers() as workers:
        monkeypatch.setenv("PREFECT_API_URL", server.url)
        with pytest.raises(KeyboardInterrupt), begun_ahead(run, workers):
            interrupted_once(lambda: ("data", "") in run.journal.entries)
        join_ahead()


@pytest.mark.parametrize("there", [True, False])
def test_data_is_begun_ahead_where_a_server_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, there: bool
) -> None:
    project = fresh_torch(tmp_path / "project")
    config = load_config(project.folder / "pipelines.yaml").pipelines["net"]
    run = Run("net", config, RunOptions(project.store, project.folder), Journal())
    with stand_in() as server, Workers() as workers:
        monkeypatch.setenv("PREFECT_API_URL", server.url if there else "http://127.0.0.1:9/api")
        with begun_ahead(run, workers):
            join_ahead()
        states = {step: entry.state for (step, _), entry in run.journal.entries.items()}
        assert states == ({"data": "made"} if there else {})
        if there:  # the run's own step finds it, and it is no step of an earlier run
            run_step(run.journal, prepare_data, "", lambda: [run.context(workers), signature_of("net", config, None)])
            assert run.journal.entries["data", ""].state == "made"
    assert (project.store / "net/data").exists() == there


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
