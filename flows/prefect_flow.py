"""The Prefect way to run the DAG: one flow run, one named and tagged task run for each step."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar, cast

import prefect
import prefect.settings
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import TerminationSignal, UnfinishedRun
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.api import check_api
from flows.run import Run, drive
from flows.submit import Result, run_step
from flows.tag_limits import asked_once
from flows.ui_artifacts import log_step, shown_in_ui
from tasks.core.errors import CannotRun, ConfigError, StepError, TrtflowError
from tasks.core.outcome import RunOutcome
from tasks.runtimes.isolate import Workers
from tasks.step import Step

if TYPE_CHECKING:
    from typing import Any

R = TypeVar("R")
_THREADS = 128


class _TaskResult(Result[R]):
    """A task run's result; one that never started says so as any step that failed does."""

    def __init__(self, future: "PrefectFuture[R]") -> None:
        self.future = future

    def result(self) -> R:
        try:
            return self.future.result()
        except UnfinishedRun as error:
            raise StepError("not reached: what it needs failed") from error


class TaskSubmit:
    """Submits each step as a task of the flow run around it."""

    interruptions: tuple[type[BaseException], ...] = (
        KeyboardInterrupt,
        TerminationSignal,
    )  # the second is what Prefect makes of SIGTERM

    def __init__(self, run: Run) -> None:
        self._run = run
        self._submitted: list[PrefectFuture[Any]] = []

    def __call__(self, step: Step[..., R], subject: str, *args: object) -> Result[R]:
        """Only results of other tasks are parameters of the task: Prefect waits for them and draws the graph."""
        name, journal = step.options.name, self._run.journal
        journal.planned(name, subject)
        results = list(_results(args))

        def run(*values: object) -> R:
            resolved = dict(zip(map(id, results), values, strict=True))
            returned: object = None
            try:
                returned = run_step(journal, step, subject, lambda: [_filled(arg, resolved) for arg in args])
            except TrtflowError as error:
                returned = _as_state(error)
            finally:
                log_step(self._run, (name, subject), returned)
            return cast("R", returned)

        task = prefect.Task(
            fn=run,
            name=name,
            task_run_name=f"{name} · {subject}".rstrip(" ·"),
            tags=self._tags(step, subject),
            retries=step.options.retries,
            cache_policy=NO_CACHE,  # the store is the cache: keyed by content, shared, and safe against kill -9
            persist_result=False,
        )
        future = task.submit(*(result.future for result in results))
        self._submitted.append(future)
        return _TaskResult(future)

    def _tags(self, step: Step[..., R], subject: str) -> set[str]:
        """Pipeline, engine, runtime and precision, as far as the step has one."""
        names = {part for part in subject.split("/") if part}
        runtimes = {engine.runtime for engine in self._run.config.engines or () if engine.name in names}
        return {self._run.pipeline, *step.options.tags, *names, *runtimes}

    def settle(self) -> None:
        """Wait until every step that was submitted has ended, well or not."""
        for future in self._submitted:
            future.wait()
        self._submitted.clear()


def _as_state(error: TrtflowError) -> "State[Any]":
    """As a state and not as an exception: its message says it all, and Prefect logs no traceback."""
    if isinstance(error, CannotRun):  # what does not run here is no failure
        return Cancelled(name="NotRun", message=str(error), data=error)
    return Failed(message=str(error), data=error)


def _results(value: object) -> "Iterator[_TaskResult[Any]]":
    if isinstance(value, _TaskResult):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _results(item)


def _filled(value: object, resolved: dict[int, object]) -> object:
    if isinstance(value, _TaskResult):
        return resolved[id(value)]
    if type(value) in (tuple, list):
        return type(value)(_filled(item, resolved) for item in value)  # type: ignore[call-arg,attr-defined]
    return value


def run_with_prefect(run: Run, workers: Workers) -> RunOutcome:
    """Run the pipeline as the flow `convert`; its state says what became of the run."""
    if url := prefect.settings.PREFECT_API_URL.value():  # else Prefect starts a server of its own for this run
        check_api(url)
    refused: list[ConfigError] = []
    with prefect.tags(run.pipeline):
        state = _flow(run, workers, refused.append)(return_state=True)
    if refused:
        raise refused[0]
    if run.outcome is None or not (state.is_completed() or state.is_failed()):
        state.result()  # raises what ended the flow early
    if run.outcome is None:
        raise StepError(f"the flow run ended as {state.name} without an outcome", "see its log in the Prefect UI")
    return run.outcome


def driven(run: Run, workers: Workers) -> "State[Any]":
    """Run the pipeline inside a flow run; what this returns is the state in which the flow run ends."""
    with shown_in_ui(run), asked_once():
        outcome = drive(run, workers, TaskSubmit(run))
    if outcome.status == "passed":
        return Completed(message=outcome.promoted.reason if outcome.promoted else "passed")
    bad = [engine for engine in outcome.engines if engine.status in ("failed", "error")]
    return Failed(message="; ".join(f"{engine.id}: {engine.reason}" for engine in bad) or run.failure or "failed")


def runner_of_tasks() -> "TaskRunner[PrefectFuture[Any]]":
    """A thread for each step: what limits them are their inputs and the workers."""
    return cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=_THREADS))


def _flow(run: Run, workers: Workers, refuse: Callable[[ConfigError], None]) -> "prefect.Flow[[], State[Any]]":
    def body() -> "State[Any]":
        try:
            return driven(run, workers)
        except ConfigError as error:
            refuse(error)
            return Failed(message=str(error))

    return prefect.Flow(
        fn=body,
        name="convert",
        flow_run_name=f"{run.pipeline} · {run.id[-6:]} · manual",
        task_runner=runner_of_tasks(),
        persist_result=False,
    )
