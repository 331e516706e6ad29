"""`trtflow up`: a server if none is configured, the deployments of a YAML, and what serves them, until told to stop."""

import asyncio
import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING

from flows.api import Api, open_api
from flows.claims import Claims, Settled
from flows.commands.deploy import show
from flows.deploy import Registration, deploy, ids_of
from flows.deployments import Owner
from flows.options import Options, open_store
from flows.server import Server
from tasks.core.config import Config
from tasks.core.errors import ConfigError, TrtflowError
from tasks.core.paths import absolute_path
from tasks.core.remote_errors import told_url

if TYPE_CHECKING:
    from flows.serving import Serving

_LOOK_SECONDS = 5.0
# A server that dies more often than this within the time has something that another start does not mend.
_RESTARTS, _RESTART_SECONDS = 3, 300.0


@dataclass(frozen=True)
class Place:
    """Where `up` keeps its database, logs and claims, and where its server listens."""

    folder: Path
    host: str
    port: int


@dataclass
class Up:
    """What is up."""

    options: Options
    config: Config
    registration: Registration
    place: Place
    limit: int | None = None
    server: Server | None = None
    _restarts: list[float] = field(default_factory=list)

    def run(self) -> int:
        """Start everything, serve, and end everything."""
        with _only_one(self.place.folder), _only_server_of(self.options.file):
            try:
                self._start()
                return self._serve()
            finally:
                self._stop()

    def _start(self) -> None:
        if not os.environ.get("PREFECT_API_URL"):
            self.server = Server(self.place.folder, self.place.host, self.place.port)
            self.server.check()
            os.environ.update(self.server.settings())
        from flows.prefect_settings import keep_quiet, what_is_off

        keep_quiet()
        os.environ.update(_for_flow_runs(self.options))
        if self.server:
            self.server.start()
            _say(f"starting a Prefect server on SQLite: {self.server.database} (log: {self.server.log})")
        _say(what_is_off())
        from flows.serving import warm_up

        warm_up()
        if self.server:
            self.server.wait()

    def _stop(self) -> None:
        if "flows.serving" in sys.modules:
            from flows.serving import cool_down

            cool_down()
        if self.server:
            self.server.stop()

    def _serve(self) -> int:
        from flows.serving import Serving, default_limit

        claims = Claims(self.place.folder / "claims", open_store(self.options, self.config).root)
        with open_api() as api:
            done = deploy(api, self.registration, adopt=self.server is not None)
            show(done)
            sys.stdout.flush()  # into a pipe or a journal it would come when all is over
            _tell_settled([*claims.settle(api, patient=False), *claims.release(api, list(done.ids.values()))])
            serving = Serving(claims, self.limit or default_limit())
            serving.update(done.ids)
            _say(f"UI: {_ui(self.server)}")
            served, at_once = _counted(len(done.ids), "deployment"), _counted(serving.limit, "run")
            _say(f"serving {served}, {at_once} at once; Ctrl-C stops all of it")
            try:
                asyncio.run(self._until_stopped(_Session(api, serving, self.registration.owner)))
            finally:
                _give_back(api, claims)
        _say("stopped")
        return 0

    async def _until_stopped(self, session: "_Session") -> None:
        stop, over = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, stop.set)
        watch = asyncio.create_task(self._watch(session, stop, over))
        serve = asyncio.create_task(session.serving.run(stop, session.lost))
        try:
            await asyncio.wait((watch, serve), return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            await serve
        finally:
            over.set()
            await watch
            for signum in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(signum)

    async def _watch(self, session: "_Session", stop: asyncio.Event, over: asyncio.Event) -> None:
        """Every few seconds: the server lives, dead processes' runs have true states, new deployments are served.

        The server is looked after until all is over: what is being stopped has a last word for it.
        """
        while not over.is_set():
            if self.server and self.server.ended():
                await self._restart(self.server)
            if not stop.is_set():
                with contextlib.suppress(TrtflowError):  # an API that is away: it is asked again
                    await asyncio.to_thread(session.look)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for((over if stop.is_set() else stop).wait(), _LOOK_SECONDS)

    async def _restart(self, server: Server) -> None:
        now = time.monotonic()
        self._restarts = [begun for begun in self._restarts if now - begun < _RESTART_SECONDS]
        if len(self._restarts) >= _RESTARTS:
            raise TrtflowError(f"the Prefect server died {_RESTARTS + 1} times in a row", f"see {server.log}")
        self._restarts.append(now)
        _say("the Prefect server died; starting it again")
        server.start()  # in this thread: the server ends with the one that started it
        await asyncio.to_thread(server.wait)
        _say("the Prefect server is back")


@dataclass
class _Session:
    """One session with an API."""

    api: Api
    serving: "Serving"
    owner: Owner
    _lost: bool = False

    def lost(self, error: Exception) -> None:
        """The API did not answer: say so once."""
        if not self._lost:
            _say(f"the Prefect API does not answer ({error}); what runs goes on, asking again until it does")
        self._lost = True

    def look(self) -> None:
        """Serve what was deployed since, and put states right."""
        self.serving.update(ids_of(self.api, self.owner))
        _tell_settled(self.serving.claims.settle(self.api))
        if self._lost:
            _say("the Prefect API answers again")
        self._lost = False


def _for_flow_runs(options: Options) -> dict[str, str]:
    """What the processes of flow runs find in their environment."""
    from flows.environment import CACHE, FILE, STORE

    store = options.store
    if store is not None and "://" not in store:
        store = str(absolute_path(store))
    given = {FILE: str(options.file), STORE: store, CACHE: options.cache}
    return {name: text for name, text in given.items() if text is not None}


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[IO[str]]:
    """Hold the folder's lock, which ends with the process that has it, however that ends."""
    try:
        new = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        if new:  # else it may be a folder of the user's
            (folder / ".gitignore").write_text("*\n")
        lock = (folder / "up.lock").open("a+")
    except OSError as error:
        what = f"nothing can be kept in {folder}: {error.strerror}"
        raise ConfigError(what, "give another folder with --data") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "another process"
            cure = "stop it first, or give another folder with --data"
            raise ConfigError(f"`trtflow up` is at work on {folder} already ({holder})", cure) from None
        lock.truncate(0)
        lock.write(f"process {os.getpid()}\n")
        lock.flush()
        yield lock


@contextlib.contextmanager
def _only_server_of(file: Path) -> Iterator[None]:
    """Hold a lock on the YAML: two that serve it would take each other's runs for those of a dead one."""
    with file.open("rb") as yaml:
        try:
            fcntl.flock(yaml, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another `trtflow up` serves {file} already", "stop that one first") from None
        except OSError:  # a file system without locks: the one on the folder has to do
            pass
        yield


def _give_back(api: Api, claims: Claims) -> None:
    """Tell the states of what was stopped; if that fails, the next `up` finds the claims."""
    try:
        settled = claims.settle(api, patient=False)
    except TrtflowError as error:
        _say(f"{error.message}; runs that were stopped get their states when `trtflow up` is started again")
        return
    stopped = [each for each in settled if each.state == "scheduled"]
    if stopped:
        _say(f"{_counted(len(stopped), 'run')} stopped, to go on when `trtflow up` is started again")
    _tell_settled([each for each in settled if each not in stopped])


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _ui(server: Server | None) -> str:
    return server.address if server else told_url(os.environ["PREFECT_API_URL"]).removesuffix("/").removesuffix("/api")


def _tell_settled(settled: list[Settled]) -> None:
    for each in settled:
        _say(f"{each.name}: its process is gone; its state is now {each.state}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
