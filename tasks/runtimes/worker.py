"""Child side of the worker processes: `python -m tasks.runtimes.worker FD MODULE...`, started by process.py.

The process is a *zygote*: it imports the modules once, then forks one worker for each message on the socket FD. With
the message come three descriptors: the worker's connection, its log, and its *lifeline*, which stays with the zygote:
closed by the parent it asks for a kill, and on it the zygote says how the worker ended.
"""

import ctypes
import faulthandler
import fcntl
import gc
import importlib
import io
import os
import selectors
import signal
import socket
import sys
import tempfile
import traceback
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, TypeAlias, cast

from pydantic import BaseModel, JsonValue, ValidationError

from tasks.core.errors import StepError, WorkerError
from tasks.core.ranges import marked
from tasks.runtimes.protocol import (
    Done,
    Ended,
    Failed,
    Failure,
    Request,
    Types,
    encode,
    failure_of,
    jsonable,
    read_model,
    resolve,
    types_of,
)

Talk: TypeAlias = Generator[BaseModel, BaseModel, None]

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_DISTRIBUTIONS = {"yaml": "pyyaml", "modelopt": "nvidia-modelopt"}


class Forker:
    """Forks workers and looks after them. It stays single-threaded: a worker dies with the thread that forked it."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lifelines: dict[int, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._wake, self._waker = socket.socketpair()
        self._pid = os.getpid()

    def serve(self) -> NoReturn:
        """Fork, reap and kill until the parent is gone."""
        self._wake.settimeout(0)
        self._waker.settimeout(0)
        signal.signal(signal.SIGCHLD, lambda _signum, _frame: None)  # with a handler, the wake-up descriptor is written
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        self._selector.register(self._wake, selectors.EVENT_READ, self._reap)
        self._selector.register(self._control, selectors.EVENT_READ, self._spawn)
        while True:
            for key, _ in self._selector.select():
                key.data()

    def _spawn(self) -> None:
        try:
            message, descriptors, _, _ = socket.recv_fds(self._control, 64, 3, socket.MSG_CMSG_CLOEXEC)
        except ConnectionError:
            message = b""
        if not message:
            self._end()
        connection, log, lifeline = descriptors
        life = socket.socket(fileno=lifeline)
        try:
            pid = os.fork()
        except OSError as error:
            self._report(life, Ended(reason=f"was refused by the system: {error.strerror}"))
        else:
            if pid == 0:
                life.close()
                self._become_worker(socket.socket(fileno=connection), log)
            self._lifelines[pid] = life
            self._selector.register(life, selectors.EVENT_READ, lambda: self._kill(pid))
        os.close(connection)
        os.close(log)

    def _kill(self, pid: int) -> None:
        # The parent never writes on a lifeline: readable means closed. The kill is reported when the process is reaped,
        # which may have happened already, in the same round of events.
        if life := self._lifelines.get(pid):
            self._selector.unregister(life)
            os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        with suppress(BlockingIOError):
            while self._wake.recv(4096):
                pass
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            # What the worker had started is now a child of the zygote, the nearest subreaper, and must not outlive it.
            _kill_all(_children() - self._lifelines.keys())
            if life := self._lifelines.pop(pid, None):
                with suppress(KeyError):
                    self._selector.unregister(life)
                self._report(life, Ended(status=status, peak_rss_bytes=usage.ru_maxrss * 1024))

    def _report(self, life: socket.socket, ended: Ended) -> None:
        with life, suppress(OSError):  # the parent may have stopped listening
            life.send(encode(ended), socket.MSG_DONTWAIT)

    def _end(self) -> NoReturn:
        with suppress(ChildProcessError):
            while True:
                _kill_all(_children())
                os.wait4(-1, 0)
        os._exit(0)

    def _become_worker(self, connection: socket.socket, log: int) -> NoReturn:
        status = 1
        try:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != self._pid:
                os._exit(status)
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            self._selector.close()
            for mine in (self._control, self._wake, self._waker, *self._lifelines.values()):
                mine.close()
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.close(log)
            Answerer(connection).serve()
            status = 0
        except BaseException:  # noqa: BLE001  the boundary: this is the last frame of the process
            traceback.print_exc()
        finally:
            # No atexit handlers and no destructors: those of native libraries are where finished processes crash.
            with suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)


class Answerer:
    """Answers the requests of one connection, until its end."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._pid = os.getpid()
        self._name = "the worker"
        self._talk: Talk | None = None

    def serve(self) -> None:
        """Answer line after line; the parent's closing of the connection ends an open conversation."""
        with self._connection.makefile("rb") as lines:
            for line in lines:
                self._connection.sendall(encode(self._answer(line)))
        if failed := self._close():
            self._connection.sendall(encode(failed))

    def _answer(self, line: bytes) -> Done | Failed:
        try:
            return Done(reply=jsonable(self._run(_read(line))))
        except BaseException as error:  # noqa: BLE001  the boundary: whatever the function raises becomes an answer
            return self._failed(error)

    def _close(self) -> Failed | None:
        if self._talk is not None:
            try:
                self._talk.close()
            except BaseException as error:  # noqa: BLE001  as above, for the clean-up of a conversation
                return self._failed(error)
        return None

    def _failed(self, error: BaseException) -> Failed:
        if os.getpid() != self._pid:
            os._exit(1)  # a process that the function forked came back out of the function: it must not answer
        return Failed(error=failure_of(error, self._name))

    def _run(self, frame: Request) -> BaseModel:
        self._name = frame.function
        if frame.scratch is not None:
            _use_scratch(Path(frame.scratch))
        function = resolve(frame.function)
        types = types_of(function)
        if self._talk is None:
            request = self._request(types.request, frame.request)
            with marked(frame.function):
                outcome = function(request)
            if isinstance(outcome, Generator):
                self._talk = outcome
                outcome = self._next(outcome, None)
        else:
            outcome = self._next(self._talk, self._request(types.sent or types.request, frame.request))
        return self._checked(outcome, types)

    def _next(self, talk: Talk, sent: BaseModel | None) -> BaseModel:
        try:
            return talk.send(cast("BaseModel", sent))
        except StopIteration:
            raise StepError(f"{self._name} ended the conversation instead of answering") from None

    def _request(self, model: type[BaseModel], values: JsonValue) -> BaseModel:
        try:
            return read_model(model, values)
        except ValidationError as error:
            cure = "do the worker's interpreter and this one use the same trtflow?"
            raise WorkerError(f"{self._name} got a request that is no {model.__name__}", cure, str(error)) from error

    def _checked(self, outcome: object, types: Types) -> BaseModel:
        if os.getpid() != self._pid:
            os._exit(0)  # as in _failed
        if not isinstance(outcome, types.reply):
            got = type(outcome).__name__
            raise StepError(f"{self._name} gave a {got}, which is not the {types.reply.__name__} it promises")
        return outcome


def main(arguments: list[str]) -> NoReturn:
    """Import the modules, report to the parent, serve."""
    # The parent starts this process with SIGINT blocked: Ctrl-C goes to the whole group, but the parent decides on it.
    # As on any other signal to the group: a process that died of it could not look after what its workers started.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    control = socket.socket(fileno=int(arguments[0]))
    control.set_inheritable(False)
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _die_with_parent(control)
    failed = _preload(arguments[1:])
    gc.collect()  # before it says that it is ready: a benchmark may begin then
    gc.freeze()
    fcntl.fcntl(control, fcntl.F_SETFL, fcntl.fcntl(control, fcntl.F_GETFL) & ~os.O_ASYNC)
    control.sendall(encode(failed or Done()))
    if failed:
        os._exit(1)
    Forker(control).serve()


def _preload(modules: list[str]) -> Failed | None:
    for module in modules:
        try:
            importlib.import_module(module)
        except BaseException as error:  # noqa: BLE001  the boundary: an import runs anything, and all of it must be reported
            return Failed(error=_import_failure(module, error))
    return None


def _import_failure(module: str, error: BaseException) -> Failure:
    missing = error.name if isinstance(error, ModuleNotFoundError) and error.name else module
    package = missing.partition(".")[0]
    distribution = _DISTRIBUTIONS.get(package, package.replace("_", "-"))
    verb = "install" if isinstance(error, ModuleNotFoundError) else "repair"
    words = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])
    return Failure(
        kind="WorkerError",
        message=f"{sys.executable} cannot import {module!r}: {words}",
        cure=f"{verb} it there: {sys.executable} -m pip install {distribution}",
        detail=failure_of(error, module).detail[-8192:],  # all of it must fit into one message of the control socket
    )


def _die_with_parent(control: socket.socket) -> None:
    """Let the kernel end this process, even inside a long import, when the parent closes the socket or is gone."""
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(control, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(control, fcntl.F_SETFL, fcntl.fcntl(control, fcntl.F_GETFL) | os.O_ASYNC)
    with suppress(BlockingIOError):
        if not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT):
            os._exit(1)


def _read(line: bytes) -> Request:
    try:
        return Request.model_validate_json(line)
    except ValidationError as error:
        raise WorkerError("the worker got a request that it does not understand", detail=str(error)) from error


def _use_scratch(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = str(folder)


def _children() -> set[int]:
    pid = os.getpid()
    return {int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}


def _kill_all(pids: set[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


if __name__ == "__main__":
    main(sys.argv[1:])
