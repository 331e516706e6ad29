"""Parent side of the worker processes: run a function in a process of its own, from any thread of a run."""

import sys
import threading
from collections.abc import Callable, Collection, Generator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

from pydantic import BaseModel

from tasks.core.errors import WorkerError
from tasks.runtimes.process import CLOSED, Process, Task, Zygote
from tasks.runtimes.protocol import Work, name_of, types_of

Q = TypeVar("Q", bound=BaseModel)
Q2 = TypeVar("Q2", bound=BaseModel)
R = TypeVar("R", bound=BaseModel)

_EXIT_SECONDS = 10.0


@dataclass(frozen=True)
class Home:
    """Where workers are forked: an interpreter, and the modules that it imports once for all of them.

    `seconds` is how long an answer may take where that is not as long as any other's; it makes no other home.
    """

    preload: tuple[str, ...] = ()
    python: str = sys.executable
    seconds: float | None = field(default=None, compare=False)


class Workers:
    """All worker processes of one run; any thread may call. Leaving the context ends every process."""

    def __init__(self, timeout_seconds: float = 3600.0) -> None:
        self.timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._zygotes: dict[Home, Zygote] = {}
        self._workers: set[Process] = set()
        self._closed = False

    def warm(self, home: Home) -> None:
        """Start what a later call will need, and do not wait; it is that call that fails if this does."""
        with suppress(WorkerError):
            self._zygote(home)

    def importing(self, home: Home) -> bool:
        """Whether what was started for a home is still being imported."""
        with self._lock:
            zygote = self._zygotes.get(home)
            return not self._closed and zygote is not None and zygote.importing()

    def end_imports(self, keep: Collection[Home]) -> None:
        """End what is still being imported, but for those to keep. What has been imported is idle, and stays."""
        with self._lock:
            unready = [home for home, zygote in self._zygotes.items() if home not in keep and zygote.importing()]
            gone = [self._zygotes.pop(home) for home in unready]
        for zygote in gone:
            zygote.stop()
        for zygote in gone:
            zygote.close()

    def call(self, home: Home, function: Callable[[Q], R], request: Q, scratch: Path | None = None) -> R:
        """Run the function in a process of its own and wait until that process is gone; its errors are raised here."""
        worker = self._start(home, function, scratch)
        try:
            reply = worker.ask(request)
            # How the process ends after its answer is of no interest, but its memory must be free again.
            worker.finish(_EXIT_SECONDS)
        finally:
            self._end(worker)
        return cast("R", reply)

    def converse(
        self, home: Home, function: Callable[[Q], Generator[R, Q2, None]], opening: Q, scratch: Path | None = None
    ) -> "Conversation[Q2, R]":
        """Start a generator function in a process of its own; the conversation is a context manager."""
        worker = self._start(home, function, scratch)
        try:
            first = cast("R", worker.ask(opening))
        except BaseException:
            self._end(worker)
            raise
        return Conversation(worker, first, self._end)

    def close(self) -> None:
        """End every process; blocked calls raise a WorkerError at once."""
        with self._lock:
            self._closed = True
            zygotes = list(self._zygotes.values())
            self._zygotes.clear()
            for worker in self._workers:
                worker.sever()
        for zygote in zygotes:
            zygote.stop()
        for zygote in zygotes:
            zygote.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _start(self, home: Home, function: Work, scratch: Path | None) -> Process:
        task = Task(name_of(function), types_of(function).reply, scratch, home.seconds or self.timeout_seconds)
        worker = self._zygote(home).fork(task)
        with self._lock:
            self._workers.add(worker)
            if self._closed:
                worker.sever()
        return worker

    def _end(self, worker: Process) -> None:
        worker.stop()
        with self._lock:
            self._workers.discard(worker)
        worker.close()

    def _zygote(self, home: Home) -> Zygote:
        with self._lock:
            if self._closed:
                raise WorkerError(CLOSED)
            zygote = self._zygotes.get(home)
            if zygote is not None and zygote.lost():
                self._zygotes.pop(home).close()
                zygote = None
            if zygote is None:
                zygote = self._zygotes[home] = Zygote(home.python, home.preload, self.timeout_seconds)
            return zygote


class Conversation(Generic[Q2, R]):
    """A generator that runs in a worker: `first` is what it yielded first."""

    def __init__(self, worker: Process, first: R, end: Callable[[Process], None]) -> None:
        self.first = first
        self._worker = worker
        self._end = end

    def send(self, request: Q2) -> R:
        """Send the next request and wait for what the generator yields."""
        return cast("R", self._worker.ask(request))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self._worker.finish_well()
            elif isinstance(error, Exception):
                # An error is on its way and says more than a failing clean-up would. An interrupt does not wait for it.
                self._worker.finish(_EXIT_SECONDS)
        finally:
            self._end(self._worker)
