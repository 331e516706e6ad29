"""`trtflow up` for the tests: started on a free port, asked over its API, killed in part or as a whole."""

import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx

from tests.loopback import http
from tests.processes import marked
from tests.projects import ROOT, Project

FINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
PATIENCE_SECONDS = 120.0


@dataclass
class Service:
    """A `trtflow up` on a project."""

    project: Project
    port: int
    process: "subprocess.Popen[str]"
    login: tuple[str, str] | None = None
    told: list[str] = field(default_factory=list)

    @property
    def address(self) -> str:
        """Of the UI."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Of the API."""
        return f"{self.address}/api"

    @property
    def text(self) -> str:
        """All that it has printed on stderr."""
        return "".join(self.told)

    def get(self, path: str) -> Any:  # noqa: ANN401 - whatever the server answers
        """Read one thing of the API."""
        return self._said("GET", path)

    def post(self, path: str, body: object) -> Any:  # noqa: ANN401 - whatever the server answers
        """Post, and read the answer."""
        return self._said("POST", path, body)

    def _said(self, method: str, path: str, body: object = None) -> Any:  # noqa: ANN401 - whatever the server answers
        answer = http().request(method, f"{self.url}/{path}", json=body, auth=self.login)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def ask(self, kind: str, **question: object) -> list[dict[str, Any]]:
        """What a filter finds."""
        found: list[dict[str, Any]] = self.post(f"{kind}/filter", question)
        return found

    def start_run(self, title: str, **parameters: object) -> str:
        """Start a run as the UI does; returns its id."""
        deployment = self.get(f"deployments/name/{title}")["id"]
        return str(self.post(f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"])

    def run(self, key: str) -> dict[str, Any]:
        """One flow run as it is now."""
        (found,) = self.ask("flow_runs", flow_runs={"id": {"any_": [key]}})
        return found

    def wait(self, key: str, *states: str) -> dict[str, Any]:
        """Wait until a flow run is in one of the states, by default one of the last."""
        reached: list[dict[str, Any]] = []

        def look() -> bool:
            try:
                reached[:] = [self.run(key)]
            except httpx.HTTPError:  # the server was killed, and is coming back
                assert self.process.poll() is None
                return False
            return reached[0]["state_type"] in (states or FINAL)

        wait_for(look, lambda: f"{[run['state'] for run in reached]}\n{self.text}", pause=0.4)
        return reached[0]

    def convert(self, pipeline: str, **parameters: object) -> dict[str, Any]:
        """Start a run of a pipeline's deployment, and wait until it has ended."""
        return self.wait(self.start_run(f"convert/{pipeline}", **parameters))

    def ends(self, key: str, state: str) -> dict[str, Any]:
        """Wait until a flow run has ended, and check how."""
        run = self.wait(key)
        assert run["state_type"] == state, f"{run['state']}\n{self.text}"
        return run

    def serving(self, times: int = 1) -> None:
        """Wait until it serves."""
        wait_for(lambda: self.text.count("serving ") >= times or self.process.poll() is not None, lambda: self.text)
        assert self.process.poll() is None, self.text

    def server_process(self) -> int:
        """The process id of its server."""
        (found,) = [pid for pid, command in marked(self.project.mark).items() if "flows.server_process" in command]
        return found

    def stop(self, signum: int = signal.SIGINT) -> int:
        """Stop it as a user does; returns its exit code."""
        self.process.send_signal(signum)
        return self.process.wait(60)


def wait_for(
    happened: Callable[[], bool], told: Callable[[], str], seconds: float = PATIENCE_SECONDS, pause: float = 0.1
) -> None:
    """Wait until something has happened; a server that is asked is given a rest."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline, told()
        time.sleep(pause)


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@contextmanager
def service(project: Project, **environment: str) -> Iterator[Service]:
    """Start it and wait until it serves; whatever is left at the end is killed."""
    with starting(project, **environment) as started:
        started.serving()
        yield started


@contextmanager
def starting(project: Project, *arguments: str, **environment: str) -> Iterator[Service]:
    """The same, without the wait."""
    port = free_port()
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    before = ("env", f"PYTHONPATH={path}", *(f"{name}={text}" for name, text in environment.items()))
    process = project.start("up", "--port", str(port), *arguments, before=before)
    user, _, password = environment.get("PREFECT_SERVER_API_AUTH_STRING", "").partition(":")
    started = Service(project, port, process, (user, password) if user else None)
    readers = [threading.Thread(target=_hear, args=(started, name), daemon=True) for name in ("stdout", "stderr")]
    for reader in readers:
        reader.start()
    try:
        yield started
    finally:
        for pid in marked(project.mark):
            os.kill(pid, signal.SIGKILL)
        process.wait()
        for reader in readers:
            reader.join()
        process.__exit__(None, None, None)  # closes the pipes


def _hear(started: Service, name: str) -> None:
    for line in getattr(started.process, name):
        started.told.append(line)


@contextmanager
def receiver() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A webhook's address, and what it was sent."""
    heard: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/hook", heard
        server.shutdown()
        thread.join()
