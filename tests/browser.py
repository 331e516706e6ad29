"""A headless Chromium that is driven over its DevTools protocol, as a person would use a web page."""

import base64
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
from websockets.sync.client import connect
from websockets.sync.connection import Connection

_FLAGS = (
    *("--headless", "--no-sandbox", "--no-first-run", "--disable-background-networking", "--disable-component-update"),
    *(
        "--window-size=1400,1000",
        "--hide-scrollbars",
        "--disable-sync",
        "--disable-extensions",
        "--disable-default-apps",
        "--metrics-recording-only",
    ),
    # What the browser itself would ask its makers is not looked up either; what pages ask for is noted down.
    *("--no-pings", "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1", "--remote-debugging-port=0"),
    # The graph of a flow run is drawn by WebGL: in software, where there is no GPU.
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),
)
_PATIENCE_SECONDS = 30.0
# What never leaves the browser.
_INSIDE = ("data", "blob", "about", "chrome", "devtools")


@dataclass
class Tab:
    """One tab: `asked` are the addresses of all requests of its pages and their workers."""

    socket: Connection
    asked: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    _last: int = 0

    def go(self, address: str) -> None:
        """Open an address."""
        self.call("Page.navigate", url=address)

    def show(self, *texts: str) -> str:
        """Wait until the page shows every text; give what it shows."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            shown = self.text()
            missing = [text for text in texts if text not in shown]
            if not missing:
                return shown
            assert time.monotonic() < deadline, f"the page lacks {missing}: {shown}"
            time.sleep(0.1)

    def text(self) -> str:
        """What the page shows, blanks joined."""
        return " ".join(str(self.look("document.body ? document.body.innerText : ''")).split())

    def look(self, script: str) -> Any:  # noqa: ANN401 - whatever the script gives
        """Evaluate a script in the page."""
        reply = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply["exceptionDetails"]
        return reply["result"].get("value")

    def until(self, script: str) -> Any:  # noqa: ANN401 - whatever the script gives
        """Wait until a script gives something true."""
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not (found := self.look(script)):
            assert time.monotonic() < deadline, f"never true: {script}; the page shows: {self.text()}"
            time.sleep(0.1)
        return found

    def click(self, script: str) -> None:
        """Click, with the mouse, in the middle of the element that a script gives."""
        self.until(f"!!({script})")
        self.look(f"({script}).scrollIntoView({{block: 'center'}})")
        middle = "[r.x + r.width / 2, r.y + r.height / 2]"
        x, y = self.look(f"(() => {{ const r = ({script}).getBoundingClientRect(); return {middle} }})()")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def write(self, script: str, text: str, *, instead: bool = False) -> None:
        """Click an input and write, `instead` of what is there or behind it."""
        self.click(script)
        if instead:
            self.look(f"({script}).select()")
        self.call("Input.insertText", text=text)

    def picture(self, path: Path, width: int = 1400, height: int = 1000) -> None:
        """Take a picture of what is shown."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.rest(1)
        path.write_bytes(self.pixels())

    def rest(self, seconds: float) -> None:
        """Let what moves come to rest."""
        time.sleep(seconds)

    def pixels(self) -> bytes:
        """What is shown right now, as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def strangers(self, *hosts: str) -> list[str]:
        """Requests to anywhere but these hosts, given with their ports."""
        parts = [(urlsplit(address), address) for address in self.asked]
        return [address for part, address in parts if part.scheme not in _INSIDE and part.netloc not in hosts]

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Call the protocol and wait for the reply; events on the way are taken note of."""
        number = self._send(method, parameters)
        while True:
            message = json.loads(self.socket.recv(timeout=_PATIENCE_SECONDS))
            if message.get("id") == number:
                assert "error" not in message, (method, message["error"])
                found: dict[str, Any] = message["result"]
                return found
            self._note(message)

    def _send(self, method: str, parameters: dict[str, object], session: str = "") -> int:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        self.socket.send(json.dumps({**message, "sessionId": session} if session else message))
        return self._last

    def _note(self, message: dict[str, Any]) -> None:
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.asked.append(message["params"]["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(str(message["params"]["exceptionDetails"]))
            case "Target.attachedToTarget":  # a worker: it waits until its requests are listened to
                session = message["params"]["sessionId"]
                self._send("Network.enable", {}, session)
                self._send("Runtime.runIfWaitingForDebugger", {}, session)


@contextmanager
def opened(program: str) -> Iterator[Tab]:
    """Start the browser with a profile of its own, and end it with all that it left."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
        browser = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            with connect(_address(Path(profile), browser), max_size=None, proxy=None) as socket:
                tab = Tab(socket)
                tab.call("Network.enable")
                tab.call("Runtime.enable")
                tab.call("Page.enable")
                tab.call("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=True, flatten=True)
                yield tab
        finally:
            os.killpg(browser.pid, signal.SIGKILL)  # nobody reads its profile again
            browser.wait()


def _address(profile: Path, browser: "subprocess.Popen[bytes]") -> str:
    """Where its first tab listens."""
    told, deadline = profile / "DevToolsActivePort", time.monotonic() + _PATIENCE_SECONDS
    while not (told.is_file() and told.read_text().count("\n")):
        assert browser.poll() is None, "the browser ended at once"
        assert time.monotonic() < deadline, "the browser does not listen"
        time.sleep(0.05)
    port = told.read_text().split()[0]
    pages = httpx.get(f"http://127.0.0.1:{port}/json", timeout=_PATIENCE_SECONDS, trust_env=False).json()
    return str(next(page["webSocketDebuggerUrl"] for page in pages if page["type"] == "page"))
