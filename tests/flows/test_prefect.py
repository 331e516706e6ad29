"""`trtflow run` beside Prefect: a server that is not there, and none at all."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.prefect_settings import keep_quiet
from tests.projects import ROOT, Project


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
