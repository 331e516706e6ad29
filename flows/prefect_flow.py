"""The Prefect way to run the DAG: one flow run, one named and tagged task run for each step."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar, cast

import prefect
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import UnfinishedRun
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed
from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from flows.journal import Journal
from flows.run import Run, RunInterrupted, drive
from flows.submit import Result, run_step
from tasks.core.errors import StepError
from tasks.core.outcome import RunOutcome
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

    def __init__(self, journal: Journal, pipeline: str) -> None:
        self._journal = journal
        self._pipeline = pipeline

    def __call__(self, step: Step[..., R], subject: str, *args: object) -> Result[R]:
        """Only results of other tasks are parameters of the task: Prefect waits for them and draws the graph."""
        name = step.options.name
        self._journal.planned(name, subject)
        results = list(_results(args))

        def run(*values: object) -> R:
            resolved = dict(zip(map(id, results), values, strict=True))
            return run_step(self._journal, step, subject, lambda: [_filled(arg, resolved) for arg in args])

        task = prefect.Task(
            fn=run,
            name=name,
            task_run_name=f"{name} · {subject}".rstrip(" ·"),
            tags={self._pipeline, *step.options.tags, *(part for part in subject.split("/") if part)},
            retries=step.options.retries,
            cache_policy=NO_CACHE,  # the store is the cache: keyed by content, shared, and safe against kill -9
            persist_result=False,
        )
        return _TaskResult(task.submit(*(result.future for result in results)))


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


def run_with_prefect(run: Run, trigger: str = "manual") -> RunOutcome:
    """Run the pipeline as the flow `convert`; its state says what became of the run."""
    told: list[RunOutcome] = []
    state = _flow(run, trigger, told.append)(return_state=True)
    if not told:
        state.result()  # raises what ended the flow before it had an outcome
        raise StepError(f"the flow run ended as {state.name} without an outcome", "see its log in the Prefect UI")
    return told[0]


def _flow(run: Run, trigger: str, tell: Callable[[RunOutcome], None]) -> "prefect.Flow[[], State[Any]]":
    def body() -> "State[Any]":
        with prefect.tags(run.pipeline):
            try:
                outcome = drive(run, TaskSubmit(run.journal, run.pipeline))
            except RunInterrupted as stopped:
                tell(stopped.outcome)
                raise
        tell(outcome)
        if outcome.status == "passed":
            return Completed(message=outcome.promoted.reason if outcome.promoted else "passed")
        reasons = [
            f"{engine.id}: {engine.reason}" for engine in outcome.engines if engine.status in ("failed", "error")
        ]
        return Failed(message="; ".join(reasons) or "failed")

    return prefect.Flow(
        fn=body,
        name="convert",
        flow_run_name=f"{run.pipeline} · {run.id[-6:]} · {trigger}",
        task_runner=cast("TaskRunner[PrefectFuture[Any]]", ThreadPoolTaskRunner(max_workers=_THREADS)),
        persist_result=False,
    )
