"""A server that answers the few routes that senders call, as Prefect 3.8.8 does, and keeps what it is told.

The senders against a real one: tests/flows/test_retrain_server.py.
"""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class StandIn:
    """What it knows and what it heard; `broken` are statuses to answer first."""

    url: str = ""
    pipelines: tuple[str, ...] = ("net",)
    listening: bool = True
    password: str | None = None
    broken: list[int] = field(default_factory=list)
    moved: str | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    def answer(self, method: str, path: str, login: str | None, body: Any) -> tuple[int, Any]:  # noqa: ANN401, PLR0911
        if self.moved:
            return 307, None
        if self.password and login != f"Basic {base64.b64encode(self.password.encode()).decode()}":
            return 401, {"exception_message": "Unauthorized"}
        if self.broken:
            return self.broken.pop(0), {"exception_message": "Internal Server Error"}
        if path == "/api/admin/version":
            return 200, "3.8.8"
        if method == "GET" and path.startswith("/api/deployments/name/convert/"):
            known = path.rpartition("/")[2] in self.pipelines
            return (200, {"id": "1"}) if known else (404, {"detail": "Deployment not found"})
        if path == "/api/automations/filter":
            (name,) = body["automations"]["name"]["any_"]
            return 200, [{"name": name, "enabled": self.listening}] if name.endswith("on model.retrained") else []
        if path == "/api/events":
            self.events += body
            return 204, None
        return 404, {"detail": "Not Found"}


@contextmanager
def stand_in(**settings: Any) -> Iterator[StandIn]:  # noqa: ANN401 - fields of StandIn
    """Serve for the length of the block."""
    state = StandIn(**settings)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, found = state.answer(self.command, self.path, self.headers.get("Authorization"), body)
            content = b"" if found is None else json.dumps(found).encode()
            self.send_response(status)
            if state.moved:
                self.send_header("Location", state.moved)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815 - as http.server calls it

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as http.server names it
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/api"
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
