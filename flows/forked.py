"""The process of one flow run: forked from one that has imported all that a run needs, which takes seconds."""

import importlib
import os
import signal
from uuid import UUID

from flows.server_process import end_with_parent

_MODULES = {"convert": "flows.served", "gc": "flows.tidied"}
# What is imported once, before anything is forked. None of it starts a thread, which a fork would lose.
PRELOAD = ("flows.forked", *_MODULES.values(), "prefect.flow_engine")


def run(flow_name: str, flow_run: str, environment: dict[str, str]) -> None:
    """Run one flow run, as `python -m prefect.flow_engine` does, but for the traceback that it logs of a failed one."""
    # Ctrl-C reaches every process of the terminal's group; `up` alone decides what to do about it.
    os.setsid()
    end_with_parent(os.getppid(), signal.SIGTERM)
    os.environ.update(environment)
    from prefect._internal.control_listener import configure_from_env
    from prefect.engine import handle_engine_signals
    from prefect.flow_engine import load_flow_run, run_flow

    key = UUID(flow_run)
    flow = importlib.import_module(_MODULES[flow_name]).flow
    configure_from_env()
    with handle_engine_signals(key):
        run_flow(flow, flow_run=load_flow_run(key), return_type="state")
