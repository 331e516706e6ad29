"""The process of a Prefect server: `python -m flows.server_process HOST PORT [PARENT]`.

`trtflow up` starts it, and is the PARENT that it ends with; a service manager starts it without one.
"""

import ctypes
import functools
import os
import signal
import sys
from datetime import timedelta
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LEADER_SECONDS = 10


def end_with_parent(parent: int, signum: signal.Signals) -> None:
    """Have the kernel send a signal when the parent dies, however it dies; Linux only, elsewhere do nothing."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signum), 0, 0, 0)
    if os.getppid() != parent:  # it died before we asked
        os.kill(os.getpid(), signum)


def write_in_turn() -> None:
    """Have every transaction of the server wait for its turn to write.

    Prefect 3.8.8 begins them DEFERRED: one that has read, and then writes after another did, fails at once with
    "database is locked". Under a few dozen events such failures lose events, and fail runs.
    """
    from contextlib import AbstractAsyncContextManager

    from prefect.server.database.configurations import AioSqliteConfiguration
    from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

    begin = AioSqliteConfiguration.begin_transaction

    def begin_immediate(
        self: AioSqliteConfiguration,
        session: AsyncSession,
        with_for_update: bool = True,  # noqa: FBT001, FBT002 - its signature is Prefect's
    ) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
        del with_for_update
        return begin(self, session, with_for_update=True)

    AioSqliteConfiguration.begin_transaction = begin_immediate  # type: ignore[method-assign,assignment]


def without_second_ui() -> None:
    """Offer the first UI alone: the second one asks a host of its makers from the browser, whatever is switched off.

    PREFECT_SERVER_UI_V2_ENABLED=false only has the first one open by default, with a button that leads to the second.
    """
    import prefect

    prefect.__ui_v2_static_path__ = Path(os.devnull) / "none"  # a UI whose files are not there is not served


def remember_time_zones() -> None:
    """Read the folder of time zones once: Prefect 3.8.8 does so for each cron schedule that it reads or writes."""
    from prefect._internal.schemas import validators

    validators.get_timezones = functools.cache(validators.get_timezones)  # type: ignore[attr-defined]


def wait_less_for_leaders() -> None:
    """Have an event that follows another one wait seconds for it to come, instead of 15 minutes.

    Which ones came, Prefect 3.8.8 knows since its start alone: after a restart, whoever is to be told that a run
    crashed which had begun before was told 15 minutes later, or never.
    """
    from prefect.server.events.ordering import memory

    memory.PRECEDING_EVENT_LOOKBACK = timedelta(seconds=_LEADER_SECONDS)  # type: ignore[attr-defined]


def main() -> None:
    """Serve on the host and port of the command line."""
    host, port, *parent = sys.argv[1:]
    if parent:
        end_with_parent(int(parent[0]), signal.SIGTERM)
    import uvicorn

    write_in_turn()
    without_second_ui()
    remember_time_zones()
    wait_less_for_leaders()
    # As `prefect server start` runs it, in one process.
    uvicorn.run(
        "prefect.server.api.server:create_app",
        factory=True,
        host=host,
        port=int(port),
        timeout_keep_alive=5,
        log_level="warning",
    )


if __name__ == "__main__":
    main()
