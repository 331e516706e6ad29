"""Parent side of the worker processes, one by one: the zygotes of a run, and the processes forked from them."""

import os
import select
import signal
import socket
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ValidationError

from tasks.core.errors import TrtflowError, WorkerError
from tasks.runtimes.protocol import (
    MAX_FRAME_BYTES,
    Done,
    Ended,
    Failed,
    Failure,
    Request,
    decode_answer,
    encode,
    error_of,
    jsonable,
    read_model,
)

CLOSED = "the worker processes were stopped because the run ended"

_ROOT = Path(__file__).resolve().parents[2]
# -P: a module called `tasks` in the current folder must not win.
_MODULE = ("-P", "-m", "tasks.runtimes.worker")
_LOG_TAIL_BYTES = 8192
_MAX_LOG_BYTES = 64 * 1024 * 1024
_LOG_CHECK_SECONDS = 5.0
# Enough for a driver to free the memory of a GPU, which happens after the dying process has closed its connection.
_GRACE_SECONDS = 3.0
_CHUNK_BYTES = 256 * 1024
# From 1.29 on, onnxruntime tells its maker which models are opened, and leaves a file in the temporary folder.
_QUIET = {"ORT_DISABLE_TELEMETRY": "1"}
_CRASHES = {signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}
_MORE_MEMORY = "use a smaller batch or model, or a machine with more memory"


@dataclass(frozen=True)
class Task:
    """What a process is for; `seconds` is how long each of its answers may take."""

    function: str
    reply: type[BaseModel]
    scratch: Path | None
    seconds: float

    def frame(self, request: BaseModel) -> bytes:
        """Write one request of this task as a line."""
        scratch = None if self.scratch is None else str(self.scratch)
        return encode(Request(function=self.function, request=jsonable(request), scratch=scratch))


class Zygote:
    """The process of one home, from which workers are forked."""

    def __init__(self, python: str, preload: tuple[str, ...], seconds: float) -> None:
        self._python = python
        self._preload = preload
        self._seconds = seconds
        self._lock = threading.Lock()
        self._ready = False
        self._stopping = False
        self._failure: Failure | None = None
        self._log = os.memfd_create("trtflow-zygote")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.settimeout(seconds)
        try:
            with theirs:
                self._process = _launch([python, *_MODULE, str(theirs.fileno()), *preload], theirs.fileno(), self._log)
        except OSError as error:
            self._control.close()
            os.close(self._log)
            message = f"the interpreter {python} cannot be started: {error.strerror}"
            raise WorkerError(message, "create it, or name another interpreter") from error

    def fork(self, task: Task) -> "Process":
        """Make a worker; wait first until this home has imported its modules."""
        with self._lock:
            self._await_ready()
            connection, far_connection = socket.socketpair()
            lifeline, far_lifeline = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            worker = Process(task, connection, lifeline, os.memfd_create("trtflow-worker"))
            try:
                with far_connection, far_lifeline:
                    far = (far_connection.fileno(), worker.log, far_lifeline.fileno())
                    socket.send_fds(self._control, [b"fork"], far)
            except OSError as error:
                worker.close()
                message = f"the process that forks workers for {self._python} is gone"
                raise WorkerError(CLOSED if self._stopping else message, detail=_log_tail(self._log)) from error
            return worker

    def importing(self) -> bool:
        """Tell whether it has not yet said that its modules are there, or why they are not."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        return not self._ready and not poll.poll(0)

    def lost(self) -> bool:
        """Tell whether the process once worked and is gone, so that a new one is worth a try."""
        poll = select.poll()
        poll.register(self._control, 0)  # a hang-up is reported unasked
        return self._ready and bool(poll.poll(0))

    def stop(self) -> None:
        """Ask for the end: the process kills and reaps its workers first."""
        self._stopping = True
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)
        if not self._ready:
            self._process.kill()

    def close(self) -> None:
        """Wait for the end of the process, or force it, and let go of everything."""
        try:
            self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        with self._lock:
            self._control.close()
            os.close(self._log)
            self._log = -1

    def _await_ready(self) -> None:
        if self._stopping:
            raise WorkerError(CLOSED)
        if not self._ready and self._failure is None:
            self._failure = self._first_answer()
        if self._failure is not None:
            raise error_of(self._failure)
        self._ready = True

    def _first_answer(self) -> Failure | None:
        modules = ", ".join(self._preload) or "its modules"
        try:
            answer = decode_answer(self._control.recv(_CHUNK_BYTES))
        except TimeoutError:
            self._process.kill()
            message = f"{self._python} did not import {modules} within {self._seconds:g} s"
            return self._failed(message, "raise the timeout")
        except (OSError, ValidationError):
            return self._start_failure()
        return answer.error if isinstance(answer, Failed) else None

    def _start_failure(self) -> Failure:
        if self._stopping:
            return self._failed(CLOSED)
        try:
            code = self._process.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._failed(f"{self._python} is no worker of this trtflow")
        if code < 0:
            return self._failed(f"{self._python} was killed by {_signal_name(-code)} while it imported its modules")
        last = _log_tail(self._log).strip().rpartition("\n")[2]
        needs = " ".join(("pydantic", *self._preload))
        cure = f"it must be Python 3.11 or newer, with {needs}; to install: {self._python} -m pip install {needs}"
        return self._failed(f"{self._python} cannot run workers: {last or f'exit code {code}'}", cure)

    def _failed(self, message: str, cure: str = "") -> Failure:
        return Failure(kind="WorkerError", message=message, cure=cure, detail=_log_tail(self._log))


class Process:
    """One forked process: its connection, its log, and the lifeline on which its zygote says how it ended."""

    def __init__(self, task: Task, connection: socket.socket, lifeline: socket.socket, log: int) -> None:
        self.log = log
        self._task = task
        self._connection = connection
        self._connection.settimeout(0)
        self._lifeline = lifeline
        self._ended: Ended | None = None
        self._severed = False
        self._cut_off = False

    def ask(self, request: BaseModel) -> BaseModel:
        """Send one request and wait for its answer."""
        frame = self._task.frame(request)
        line = self._exchange(frame, self._task.seconds)
        if line is None:
            raise self._lost()
        return self._read(line)

    def finish(self, seconds: float) -> None:
        """Let the process end by itself, so that a conversation can clean up; what goes wrong is of no interest."""
        with suppress(TrtflowError):
            self._conclude(seconds)

    def finish_well(self) -> None:
        """Let the process end by itself and raise what goes wrong in that."""
        line = self._conclude(self._task.seconds)
        if line is not None:
            self._read(line)
        code = self._wait_ended(_GRACE_SECONDS)
        if code != 0 or self._ended is None or self._ended.reason:
            raise self._lost()

    def stop(self) -> None:
        """Kill the process if it still runs, and wait until it is gone."""
        if self._ended is None:
            with suppress(OSError):
                self._lifeline.shutdown(socket.SHUT_WR)
            self._wait_ended(_GRACE_SECONDS)

    def sever(self) -> None:
        """Wake the thread that waits for this worker, whatever the processes do."""
        self._severed = True
        for end in (self._connection, self._lifeline):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Let go of the sockets and of the log."""
        self._connection.close()
        self._lifeline.close()
        os.close(self.log)

    def _conclude(self, seconds: float) -> bytes | None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
        line = self._exchange(b"", seconds)
        self._wait_ended(_GRACE_SECONDS)
        return line

    def _exchange(self, frame: bytes, seconds: float) -> bytes | None:
        """Send a frame and receive a line; None when the process ended first."""
        unsent = memoryview(frame)
        received = bytearray()
        deadline = time.monotonic() + seconds
        while not received.endswith(b"\n"):
            if len(received) > MAX_FRAME_BYTES:
                raise self._error(f"gave an answer of more than {MAX_FRAME_BYTES} bytes")
            unsent = unsent[self._send(unsent) :]
            chunk = self._receive()
            if chunk is None and not self._wait(deadline, select.POLLOUT if unsent else 0):
                chunk = b""
            if chunk == b"":
                self._cut_off = bool(received)
                return None
            received += chunk or b""
        return bytes(received)

    def _send(self, unsent: memoryview) -> int:
        try:
            return self._connection.send(unsent) if unsent else 0
        except BlockingIOError:
            return 0
        except OSError:
            return len(unsent)  # the process is gone; what it left to be read tells more

    def _receive(self) -> bytes | None:
        """Read what is there: None when that is nothing yet, no bytes when nothing will come any more."""
        try:
            return self._connection.recv(_CHUNK_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    def _wait(self, deadline: float, sending: int) -> bool:
        """Wait until the connection can go on; False when the process has ended and left nothing to be read."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN | sending)
        poll.register(self._lifeline, select.POLLIN)
        while (remaining := deadline - time.monotonic()) > 0:
            ready = {descriptor for descriptor, _ in poll.poll(min(remaining, _LOG_CHECK_SECONDS) * 1000 + 1)}
            if ready:
                return self._connection.fileno() in ready
            _limit_log(self.log)
        self.stop()
        words = f"gave no answer within {self._task.seconds:g} s; it was stopped"
        raise self._error(words, "raise the timeout, or give it less to do")

    def _read(self, line: bytes) -> BaseModel:
        try:
            answer = decode_answer(line)
            if isinstance(answer, Done):
                return read_model(self._task.reply, answer.reply)
        except ValidationError as error:
            cure = "do its interpreter and this one use the same trtflow?"
            raise self._error(f"gave an answer that is no {self._task.reply.__name__}", cure) from error
        raised = error_of(answer.error)
        if log := _log_tail(self.log):
            raised.detail = f"{raised.detail}\nThe end of its log:\n{log}"
        raise raised

    def _wait_ended(self, seconds: float) -> int | None:
        """Wait for the end of the process and give its exit code, minus the signal; None while it runs."""
        if self._ended is None:
            self._lifeline.settimeout(seconds)
            try:
                message = self._lifeline.recv(_CHUNK_BYTES)
            except TimeoutError:
                return None
            except OSError:
                message = b""
            self._ended = _ended(message)
        return os.waitstatus_to_exitcode(self._ended.status)

    def _lost(self) -> WorkerError:
        code = self._wait_ended(_GRACE_SECONDS)
        ended = self._ended
        if code is None or ended is None:
            self.stop()
            return self._error("closed its connection without an answer; it was stopped")
        if ended.reason:
            return self._error(ended.reason)
        if code == -signal.SIGKILL:
            peak = f"{ended.peak_rss_bytes / 2**20:.0f} MiB"
            words = f"was killed by SIGKILL: most likely the system ran out of memory (it used {peak} at its peak)"
            return self._error(words, _MORE_MEMORY)
        if code < 0:
            cure = "native code crashed in it: --debug shows where" if -code in _CRASHES else ""
            return self._error(f"was killed by {_signal_name(-code)}", cure)
        words = f"exited with code {code} {'in the middle of' if self._cut_off else 'without'} an answer"
        return self._error(words, "code that it ran ended the process: let it return, or raise an error")

    def _error(self, words: str, cure: str = "") -> WorkerError:
        if self._severed:
            return WorkerError(CLOSED, detail=f"it was running {self._task.function}")
        return WorkerError(f"the worker of {self._task.function} {words}", cure, _log_tail(self.log))


def _launch(command: list[str], descriptor: int, log: int) -> "subprocess.Popen[bytes]":
    path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    # The child inherits the mask: a Ctrl-C before it can ignore that signal must not end it.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(  # noqa: S603  the interpreter is the user's own choice
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(descriptor,),
            env={**_QUIET, **os.environ, "PYTHONPATH": path},
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _ended(message: bytes) -> Ended:
    """Read what a zygote says of a worker's end; no message where the zygote is gone as well."""
    if not message:
        return Ended(reason="was lost together with the process that it was forked from")
    try:
        ended = Ended.model_validate_json(message)
        os.waitstatus_to_exitcode(ended.status)
    except (ValueError, OverflowError):
        return Ended(reason="ended, and how cannot be read: do its interpreter and this one use the same trtflow?")
    return ended


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _log_tail(log: int) -> str:
    with suppress(OSError):  # a log that another thread has closed by now
        start = max(os.fstat(log).st_size - _LOG_TAIL_BYTES, 0)
        return os.pread(log, _LOG_TAIL_BYTES, start).decode(errors="replace").lstrip("\0")
    return ""


def _limit_log(log: int) -> None:
    # The log is memory. Truncating it frees that; its writers go on behind the hole.
    if os.fstat(log).st_blocks * 512 > _MAX_LOG_BYTES:
        os.ftruncate(log, 0)
