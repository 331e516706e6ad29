"""A real Prefect server with its UI, in a folder of its own, and a witness of whatever would leave the machine."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

_PATIENCE_SECONDS = 120.0


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
    """A server that answers, and the environment of those who are to talk to it."""

    address: str
    home: Path
    process: "subprocess.Popen[bytes]"

    @property
    def url(self) -> str:
        """Of its API."""
        return f"{self.address}/api"

    def told(self, **more: str) -> Sequence[str]:
        """What stands before a command that is to use it."""
        told = {"PREFECT_API_URL": self.url, "PREFECT_HOME": str(self.home / "client"), **more}
        return ("env", *(f"{name}={text}" for name, text in told.items()))

    def ask(self, kind: str, **question: object) -> list[dict[str, Any]]:
        """Ask for what fits some filters."""
        found: list[dict[str, Any]] = self.post(f"{kind}/filter", question)
        return found

    def post(self, path: str, body: object) -> Any:  # noqa: ANN401 - whatever the server answers
        """Post, and read the answer."""
        answer = httpx.post(f"{self.url}/{path}", json=body, timeout=30, trust_env=False)
        assert answer.is_success, answer.text
        return answer.json()

    def flow_run(self, name: str) -> dict[str, Any]:
        """The one flow run of a name."""
        (found,) = self.ask("flow_runs", flow_runs={"name": {"any_": [name]}})
        return found

    def wait(self) -> None:
        """Wait until it answers."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            try:
                httpx.get(f"{self.url}/health", timeout=5, trust_env=False).raise_for_status()
            except httpx.HTTPError:
                assert self.process.poll() is None, (self.home / "log").read_text()
                assert time.monotonic() < deadline, (self.home / "log").read_text()
                time.sleep(0.2)
            else:
                return


@contextmanager
def starting(home: Path, outside: Outside) -> Iterator[Server]:
    """Start a server; it answers a while later."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        **outside.environment,
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    }
    # As `prefect server start` runs it, without the command around, which takes as long again to import.
    command = [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield Server(f"http://127.0.0.1:{port}", home, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)  # what it could still write is in a folder that nobody reads
        process.wait()
