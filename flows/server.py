"""The Prefect server of `trtflow up`: on SQLite, in a folder of its own, started and ended with it."""

import contextlib
import errno
import os
import socket
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from tasks.core.errors import ConfigError, TrtflowError

if TYPE_CHECKING:
    import httpx

_START_SECONDS = 120.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.1
_LOG_LINES = 15
_ADDRESS = "name one of this machine with --host: 127.0.0.1 is reached from here alone, 0.0.0.0 from everywhere"


@dataclass
class Server:
    """A server on one address; `folder` holds its database and its log."""

    folder: Path
    host: str
    port: int
    process: "subprocess.Popen[bytes] | None" = field(default=None, init=False)

    @property
    def address(self) -> str:
        """Where the UI is."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 - asked about, not bound
        return f"http://[{host}]:{self.port}" if ":" in host else f"http://{host}:{self.port}"

    @property
    def url(self) -> str:
        """The API's address."""
        return f"{self.address}/api"

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return self.folder / "prefect.db"

    @property
    def log(self) -> Path:
        """What the server prints."""
        return self.folder / "server.log"

    def settings(self) -> dict[str, str]:
        """What the server and everything that talks to it are told by the environment."""
        settings = {
            "PREFECT_HOME": str(self.folder),
            "PREFECT_API_URL": self.url,
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{self.database}",
            # Without it the UI of another port would look for its API at 4200.
            "PREFECT_SERVER_UI_API_URL": self.url,
            "PREFECT_SERVER_UI_V2_ENABLED": "false",  # calls out from the browser
            # Its default, a hundred future runs of every deployment, keeps it at work for minutes.
            "PREFECT_SERVER_SERVICES_SCHEDULER_MAX_RUNS": "5",
            # How often a run asks again that waits for another one of its pipeline.
            "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "5",
        }
        password = os.environ.get("PREFECT_SERVER_API_AUTH_STRING")
        return settings | ({"PREFECT_API_AUTH_STRING": password} if password else {})

    def check(self) -> None:
        """Raise ConfigError where a start cannot go well."""
        _check_password()
        _check_port(self)
        _check_database(self.database)

    def start(self) -> None:
        """Start the process; `wait` tells when it answers."""
        command = [sys.executable, "-m", "flows.server_process", self.host, str(self.port), str(os.getpid())]
        with _appended(self.log) as log:
            # In a session of its own: Ctrl-C is for `up`, which ends the server behind everything that needs it.
            self.process = subprocess.Popen(  # noqa: S603 - our own module
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Wait until the API answers; raise with the end of its log if it does not."""
        import httpx

        deadline = time.monotonic() + _START_SECONDS
        with httpx.Client(timeout=5) as client:  # one for all times: each reads all certificates when it is made
            while not self._answers(client):
                if self.ended() or time.monotonic() > deadline:
                    lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
                    how = "ended" if self.ended() else f"did not answer within {_START_SECONDS:.0f} s"
                    raise TrtflowError(f"the Prefect server {how}", f"see {self.log}", "\n".join(lines))
                time.sleep(_POLL_SECONDS)

    def _answers(self, client: "httpx.Client") -> bool:
        import httpx

        with contextlib.suppress(httpx.HTTPError):
            return client.get(f"{self.url}/health").is_success and not self.ended()
        return False

    def ended(self) -> bool:
        """Whether the process is gone."""
        return self.process is None or self.process.poll() is not None

    def stop(self) -> None:
        """End the process and wait until it is gone."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _appended(log: Path) -> BinaryIO:
    try:
        return log.open("ab")
    except OSError as error:
        what = f"nothing can be written to {log}: {error.strerror}"
        raise ConfigError(what, "let it be written, or give another folder with --data") from error


def _check_password() -> None:
    if not os.environ.get("PREFECT_SERVER_API_AUTH_STRING", "").isascii():
        what = "PREFECT_SERVER_API_AUTH_STRING holds letters that are not ASCII: Prefect's server lets nobody in then"
        raise ConfigError(what, "choose another password")


def _check_port(server: Server) -> None:
    """Bind the port, as the server will, and let it go."""
    try:
        kind, _, _, _, address = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)[0]
        with socket.socket(kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except socket.gaierror as error:
        raise ConfigError(f"there is no address {server.host!r:.99}: {error.strerror}", _ADDRESS) from error
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            raise ConfigError(f"{server.host} is no address of this machine", _ADDRESS) from error
        raise ConfigError(
            f"cannot listen at {server.host}:{server.port}: {_why(server, error)}", _cure(server)
        ) from error


def _why(server: Server, error: OSError) -> str:
    return (
        f"a Prefect server {_version_at(server)} answers there" if _version_at(server) else str(error.strerror or error)
    )


def _cure(server: Server) -> str:
    other = f"choose another port: --port {server.port + 1}"
    if not _version_at(server):
        return other
    return f"stop it, use it (PREFECT_API_URL={server.url} trtflow up), or {other}"


def _version_at(server: Server) -> str:
    """Version of the Prefect server at the address; empty if there is none."""
    import httpx

    try:
        answer = httpx.get(f"{server.url}/admin/version", timeout=5)
        return answer.text.strip().strip('"') if answer.is_success or answer.status_code == 401 else ""  # noqa: PLR2004
    except httpx.HTTPError:
        return ""


def _check_database(database: Path) -> None:
    """Refuse what a newer Prefect made; keep a copy of what an older one made, which the server will change."""
    if unusable := set(str(database)) & set("?#%"):
        what = f"Prefect opens no database below a folder with {' or '.join(sorted(unusable))} in its path: {database}"
        raise ConfigError(what, "give another folder with --data")
    if not database.exists():
        return
    from importlib.metadata import version

    try:
        with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as opened:
            found = [str(row[0]) for row in opened.execute("SELECT version_num FROM alembic_version")]
    except sqlite3.Error as error:
        cure = f"move it away to begin with an empty one: mv {database} {database}.old"
        raise ConfigError(f"the database {database} cannot be read: {error}", cure) from error
    known = _revisions()
    if not set(found) <= known.keys():
        cure = "install the Prefect that made it, or give another folder with --data"
        raise ConfigError(f"the database {database} is of a newer Prefect than the {version('prefect')} here", cure)
    if any(known[revision] for revision in found):
        kept = database.with_name(f"{database.name}.{found[0]}")
        _copy(database, kept)
        print(f"the database is of an older Prefect and is brought up to date; a copy of it: {kept}", file=sys.stderr)


def _revisions() -> dict[str, bool]:
    """Every revision of the database that this Prefect knows, and whether there is a newer one."""
    from importlib.util import find_spec

    found = find_spec("prefect")
    if found is None or found.origin is None:
        raise TrtflowError("prefect is not installed", "pip install trtflow's dependencies anew")
    folder = Path(found.origin).parent / "server/database/_migrations/versions/sqlite"
    known: dict[str, bool] = {}
    older: set[str] = set()
    for script in folder.glob("*.py"):
        names = _assigned(script.read_text(encoding="utf-8"))
        known[names["revision"]] = False
        older.add(names.get("down_revision", ""))
    return {revision: revision in older for revision in known}


def _assigned(script: str) -> dict[str, str]:
    """What a migration says of itself: `revision = "..."`."""
    lines = (line.partition("=") for line in script.splitlines() if line.startswith(("revision", "down_revision")))
    return {name.partition(":")[0].strip(): value.strip().strip("\"'") for name, _, value in lines}


def _copy(database: Path, kept: Path) -> None:
    with (
        contextlib.closing(sqlite3.connect(database)) as source,
        contextlib.closing(sqlite3.connect(kept)) as target,
    ):
        source.backup(target)
