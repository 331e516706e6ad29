"""`trtflow up` with a server and a UI of its own, and a witness of whatever would leave the machine."""

import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.loopback import http
from tests.projects import Project


@dataclass
class Outside:
    """A proxy that leads nowhere: a program that is told of it asks here for all that is not of this machine."""

    port: int
    asked: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What tells a program of it."""
        address = f"http://127.0.0.1:{self.port}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
        told = dict(zip(names, (address, address, address, "127.0.0.1,localhost"), strict=True))
        return {**told, **{name.lower(): text for name, text in told.items()}}


@contextmanager
def witnessed() -> Iterator[Outside]:
    """Listen, note the first line of each request, and hang up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        outside = Outside(listener.getsockname()[1])
        thread = threading.Thread(target=_listen, args=(listener, outside), daemon=True)
        thread.start()
        yield outside
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _listen(listener: socket.socket, outside: Outside) -> None:
    while True:
        try:
            asking, _ = listener.accept()
        except OSError:  # shut down
            return
        with asking:
            asking.settimeout(5)
            outside.asked.append(asking.recv(4096).partition(b"\r\n")[0].decode(errors="replace"))


@dataclass(frozen=True)
class Server:
    """What `trtflow up` has started."""

    address: str
    process: "subprocess.Popen[str]"
    told: list[str]
    patience_seconds: float = 120.0

    @property
    def url(self) -> str:
        """Of its API."""
        return f"{self.address}/api"

    def ask(self, kind: str, **question: object) -> list[dict[str, Any]]:
        """Ask for what fits some filters."""
        found: list[dict[str, Any]] = self.post(f"{kind}/filter", question)
        return found

    def post(self, path: str, body: object) -> Any:  # noqa: ANN401 - whatever the server answers
        """Post, and read the answer."""
        answer = http().post(f"{self.url}/{path}", json=body)
        assert answer.is_success, answer.text
        return answer.json()

    def get(self, path: str) -> Any:  # noqa: ANN401 - whatever the server answers
        """Read one thing of the API."""
        return self.get_page(f"/api/{path}")

    def get_page(self, path: str) -> Any:  # noqa: ANN401 - whatever the server answers
        """Read JSON at any path."""
        answer = http().get(f"{self.address}{path}")
        assert answer.is_success, answer.text
        return answer.json()

    def convert(self, pipeline: str, **parameters: object) -> dict[str, Any]:
        """Start a run of a pipeline's deployment, and wait until it has ended."""
        deployment = self.get(f"deployments/name/convert/{pipeline}")
        started = self.post(f"deployments/{deployment['id']}/create_flow_run", {"parameters": parameters})
        deadline = time.monotonic() + self.patience_seconds
        while True:
            found: dict[str, Any] = self.get(f"flow_runs/{started['id']}")
            if found["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return found
            assert time.monotonic() < deadline, (found["state"], self.told)
            time.sleep(0.5)

    def wait(self) -> None:
        """Wait until it serves."""
        deadline = time.monotonic() + self.patience_seconds
        while not any(line.startswith("serving ") for line in self.told):
            assert self.process.poll() is None, self.told
            assert time.monotonic() < deadline, self.told
            time.sleep(0.1)


@contextmanager
def up(
    project: Project, data: Path, environment: Mapping[str, str] | None = None, patience_seconds: float = 120.0
) -> Iterator[Server]:
    """Start `trtflow up` on a free port; it serves a while later."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = ("env", f"TMPDIR={data}", *(f"{name}={text}" for name, text in (environment or {}).items()))
    process = project.start("up", "--port", str(port), "--data", str(data), before=before)
    server = Server(f"http://127.0.0.1:{port}", process, [], patience_seconds)
    reader = threading.Thread(target=_hear, args=(server,), daemon=True)
    reader.start()
    try:
        yield server
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        reader.join()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None
            pipe.close()


def _hear(server: Server) -> None:
    assert server.process.stderr is not None
    for line in server.process.stderr:
        server.told.append(line)
