"""Serves deployments: Prefect's Runner finds the runs that are due, and each is forked instead of started from nothing.

The Runner claims runs, hears of cancellations and reports processes that died. What is replaced of it (how a process is
started, and its loop, which gives up after three failed polls) is not public: docs/decisions/0020 says what, and why.
"""

import asyncio
import atexit
import multiprocessing
import multiprocessing.forkserver
import multiprocessing.resource_tracker
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from typing import TYPE_CHECKING, cast
from uuid import UUID

import anyio
import anyio.to_thread
from anyio.abc import TaskStatus
from httpx import HTTPError
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.runner import Runner
from prefect.runner._process_manager import ProcessHandle

from flows import forked
from flows.claims import Claims

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

    from prefect.client.schemas.objects import FlowRun
    from prefect.runner._control_channel import ControlChannel

POLL_SECONDS = 1.0
_PREFETCH_SECONDS = 1.0
_CANCEL_SECONDS = 2.0
_STOP_SECONDS = 30.0
# multiprocessing has a socket in the temporary folder, and a kernel takes 107 bytes of its path: 32 are its own.
_LONGEST, _SHORT = 75, "/tmp"  # noqa: S108 - a folder that is ours alone is made in it
_context = multiprocessing.get_context("forkserver")


def warm_up() -> None:
    """Start the process that flow runs are forked from; it has the environment of now."""
    if len(tempfile.gettempdir()) > _LONGEST:
        folder = tempfile.mkdtemp(prefix="trtflow-", dir=_SHORT)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        multiprocessing.current_process()._config["tempdir"] = folder  # type: ignore[attr-defined]
    _context.set_forkserver_preload(list(forked.PRELOAD))
    multiprocessing.forkserver.ensure_running()


def cool_down() -> None:
    """End that process, and the one that multiprocessing keeps beside it, and wait until they are gone."""
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]
    multiprocessing.resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]


@dataclass
class _Starter:
    """Starts the process of one flow run, and keeps a claim on it."""

    flow: str
    deployment: str
    control: "ControlChannel"
    claims: Claims
    live: dict[UUID, ForkServerProcess]

    async def start(
        self, flow_run: "FlowRun", task_status: "TaskStatus[ProcessHandle]" = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Start it, hand over its handle, and wait until it has ended."""
        port, token = self.control.register(flow_run.id)
        environment = {
            "PREFECT__FLOW_RUN_ID": str(flow_run.id),
            "PREFECT__DEPLOYMENT_NAME": self.deployment,
            "PREFECT__CONTROL_PORT": str(port),
            "PREFECT__CONTROL_TOKEN": token,
            "PREFECT__ENABLE_CANCELLATION_AND_CRASHED_HOOKS": "false",
        }
        process = _context.Process(target=forked.run, args=(self.flow, str(flow_run.id), environment))
        process.start()
        try:
            self.claims.add(str(flow_run.id), cast("int", process.pid))
        except OSError:  # a full disk: nobody could stop it, or tell its state once it is gone
            process.kill()
            await anyio.to_thread.run_sync(process.join)
            raise
        self.live[flow_run.id] = process
        try:
            task_status.started(ProcessHandle(cast("SpawnProcess", process)))
            await anyio.to_thread.run_sync(process.join)
        finally:
            del self.live[flow_run.id]


@dataclass
class Serving:
    """The deployments that are served: their flows and names, by their ids."""

    claims: Claims
    limit: int
    deployments: dict[UUID, tuple[str, str]] = field(default_factory=dict)
    live: dict[UUID, ForkServerProcess] = field(default_factory=dict)
    _asked: float = 0.0

    def update(self, titles: dict[str, str]) -> None:
        """Serve what the API has now: ids by `flow/name`."""
        for title, key in titles.items():
            flow, _, name = title.partition("/")
            self.deployments[UUID(key)] = (flow, name)

    async def run(self, stop: asyncio.Event, lost: Callable[[Exception], None]) -> None:
        """Serve until told to stop, then stop the flow runs that are at work: their claims say so."""
        runner = Runner(
            name="trtflow", query_seconds=POLL_SECONDS, prefetch_seconds=_PREFETCH_SECONDS, limit=self.limit,
            pause_on_shutdown=False,
        )  # fmt: skip
        async with runner:
            poller = runner._scheduled_run_poller
            poller._resolve_starter = lambda flow_run: self._starter(runner, flow_run)
            try:
                while not stop.is_set():
                    for key, (_, name) in list(self.deployments.items()):
                        runner._deployment_registry.register_deployment(key, name)
                    try:
                        await poller._get_and_submit_flow_runs()
                        await self._cancel(runner)
                    except HTTPError as error:
                        lost(error)
                    await _sleep(stop, POLL_SECONDS)
            finally:
                poller.stopping = True
                await self._end(runner)

    def _starter(self, runner: Runner, flow_run: "FlowRun") -> _Starter:
        flow, name = self.deployments[cast("UUID", flow_run.deployment_id)]
        return _Starter(flow, name, runner._control_channel, self.claims, self.live)

    async def _cancel(self, runner: Runner) -> None:
        """Ask which runs are to be cancelled: the Runner is told, but never again once the server was away."""
        if not self.live or time.monotonic() - self._asked < _CANCEL_SECONDS:
            return
        self._asked = time.monotonic()
        cancelling = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CANCELLING]))
        ours = FlowRunFilter(id=FlowRunFilterId(any_=list(self.live)), state=cancelling)
        for flow_run in await runner._client.read_flow_runs(flow_run_filter=ours):
            runner._runs_task_group.start_soon(runner._cancel_run, flow_run)

    async def _end(self, runner: Runner) -> None:
        """End what still runs. It was told why, so it reports no crash: whoever stops it says what becomes of it."""
        stopped = dict(self.live)
        for key, process in stopped.items():
            self.claims.stop(str(key))
            await runner._control_channel.signal(key, "reschedule")
            process.terminate()
        await asyncio.gather(*(anyio.to_thread.run_sync(_ended, process) for process in stopped.values()))


def _ended(process: ForkServerProcess) -> None:
    process.join(_STOP_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()


async def _sleep(stop: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(stop.wait(), seconds)
    except TimeoutError:
        return


def default_limit() -> int:
    """Conversions at once: each computes on several cores by itself."""
    return max(2, (os.cpu_count() or 2) // 4)
