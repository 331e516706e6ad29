"""Run steps as soon as their inputs are there: in this process, on threads, without a server."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self, TypeVar

from flows.journal import Journal
from tasks.step import Step

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

    def __call__(self, step: Step[..., R], subject: str, *args: object) -> Result[R]:
        """Return at once."""


class ThreadSubmit:
    """The in-process way to run the DAG."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="step")

    def __call__(self, step: Step[..., R], subject: str, *args: object) -> Result[R]:
        """Submit to a thread; steps submitted earlier hold the earlier threads, so none waits for a later one."""
        self._journal.planned(step.options.name, subject)
        return self._pool.submit(run_step, self._journal, step, subject, lambda: [resolve(arg) for arg in args])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)


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
        result = step(*resolved)
    except BaseException as error:
        journal.failed(step.options.name, subject, error)
        raise
    journal.ended(step.options.name, subject)
    return result
