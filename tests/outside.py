"""A witness of whatever would leave the machine."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


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
