"""Run steps as soon as their inputs are there: in this process, on threads, without a server."""

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self, TypeVar

from flows.journal import Journal
from tasks.core.errors import CannotRun, TrtflowError
from tasks.core.ranges import marked
from tasks.step import Step

log = logging.getLogger(__name__)
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)
# Threads only wait, for workers and for each other; how many steps compute at once is the context's matter.
_THREADS = 128


class Result(Protocol[R_co]):
    """What a submitted step will return."""

    def result(self) -> R_co:
        """Wait for the step; raise what it raised."""


class Submit(Protocol):
    """Hands a step over; arguments that are results of other steps are waited for, also inside tuples and lists."""

    @property
    def interruptions(self) -> tuple[type[BaseException], ...]:
        """What a signal that ends the run is raised as."""

    def __call__(self, step: Step[..., R], subject: str, *args: object) -> Result[R]:
        """Return at once."""

    def settle(self) -> None:
        """Wait until every step that was submitted has ended, well or not."""


class ThreadSubmit:
    """The in-process way to run the DAG."""

    interruptions: tuple[type[BaseException], ...] = (KeyboardInterrupt,)

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="step")
        self._submitted: list[Future[Any]] = []

    def __call__(self, step: Step[..., R], subject: str, *args: object) -> Result[R]:
        """Submit to a thread; steps submitted earlier hold the earlier threads, so none waits for a later one."""
        self._journal.planned(step.options.name, subject)
        future = self._pool.submit(run_step, self._journal, step, subject, lambda: [resolve(arg) for arg in args])
        self._submitted.append(future)
        return future

    def settle(self) -> None:
        """Wait until every step that was submitted has ended, well or not."""
        wait(self._submitted)
        self._submitted.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


class Unreached:
    """Submits to nowhere: each step is noted in the journal, and fails with what kept it from being reached."""

    interruptions: tuple[type[BaseException], ...] = (KeyboardInterrupt,)

    def __init__(self, journal: Journal, error: TrtflowError) -> None:
        self._journal = journal
        self._error = error

    def __call__(self, step: Step[..., R], subject: str, *args: object) -> Result[R]:
        """Note the step."""
        del args
        self._journal.planned(step.options.name, subject)
        return _Never(self._error)

    def settle(self) -> None:
        """Do nothing: no step runs."""


class _Never:
    """The result of a step that is not reached."""

    def __init__(self, error: TrtflowError) -> None:
        self._error = error

    def result(self) -> NoReturn:
        raise self._error


def resolve(value: object) -> object:
    """Replace results by what their steps returned."""
    if isinstance(value, Future):
        return value.result()
    if type(value) in (tuple, list):
        return type(value)(resolve(item) for item in value)  # type: ignore[call-arg,attr-defined]
    return value


def run_step(journal: Journal, step: Step[..., R], subject: str, arguments: Callable[[], list[object]]) -> R:
    """Run one step and keep the journal; a step whose inputs failed is never started."""
    resolved = arguments()
    journal.started(step.options.name, subject)
    try:
        with marked(f"{step.options.name} {subject}".rstrip()):
            result = step(*resolved)
    except CannotRun as reason:
        journal.passed_over(step.options.name, subject, reason)
        raise
    except BaseException as error:
        journal.failed(step.options.name, subject, error)
        if isinstance(error, TrtflowError):
            log.debug("%s %s failed: %s\n%s", step.options.name, subject, error, error.detail)
        raise
    journal.ended(step.options.name, subject)
    return result
