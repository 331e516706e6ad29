"""The process of one flow run: forked from one that has imported all that a run needs, which takes seconds."""

import importlib
import multiprocessing
import os
import signal
import threading
import time
from uuid import UUID

_MODULES = {"convert": "flows.served", "gc": "flows.tidied"}
# What a run may take to write its record, when the server is most likely gone too.
_GRACE_SECONDS = 15.0
# What is imported once, before anything is forked. None of it starts a thread, which a fork would lose.
PRELOAD = ("flows.forked", *_MODULES.values(), "prefect.flow_engine")


def run(flow_name: str, flow_run: str, environment: dict[str, str]) -> None:
    """Run one flow run, as `python -m prefect.flow_engine` does, but for the traceback that it logs of a failed one."""
    # Ctrl-C reaches every process of the terminal's group; `up` alone decides what to do about it.
    os.setsid()
    threading.Thread(target=_end_with_up, daemon=True).start()
    os.environ.update(environment)
    _outlast_restarts()
    from prefect._internal.control_listener import configure_from_env
    from prefect.engine import handle_engine_signals
    from prefect.flow_engine import load_flow_run, run_flow

    key = UUID(flow_run)
    flow = importlib.import_module(_MODULES[flow_name]).flow
    configure_from_env()
    with handle_engine_signals(key):
        run_flow(flow, flow_run=load_flow_run(key), return_type="state")


def _outlast_restarts() -> None:
    """Have every client of Prefect's ask again while the server is away and `up`, which starts it again, is there.

    Those of Prefect 3.8.8 do so only once they were answered, and each set of tags of a task has a client of its own: a
    step that began meanwhile failed.
    """
    from prefect.client.base import PrefectHttpxAsyncClient, PrefectHttpxSyncClient

    up = multiprocessing.parent_process()
    for client in (PrefectHttpxAsyncClient, PrefectHttpxSyncClient):
        asks_again = property(lambda _: up is not None and up.is_alive(), lambda *_: None)
        client._has_connected = asks_again  # type: ignore[assignment]


def _end_with_up() -> None:
    """End when `trtflow up` is gone, however it went: first as if it had asked, then at once."""
    up = multiprocessing.parent_process()
    if up is None:
        return
    up.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
