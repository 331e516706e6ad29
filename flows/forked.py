"""The process of one flow run: forked from one that has imported all that a run needs, which takes seconds."""

import os
import sys

from flows.server_process import end_with_parent

# What is imported once, before anything is forked. Neither starts a thread, which a fork would lose.
PRELOAD = ("flows.forked", "flows.served", "flows.tidied", "prefect.flow_engine")


def run(entrypoint: str, environment: dict[str, str]) -> None:
    """Run the flow run that the environment names, as `python -m prefect.flow_engine ENTRYPOINT` does."""
    import signal

    # Ctrl-C reaches every process of the terminal's group; `up` alone decides what to do about it.
    os.setsid()
    end_with_parent(os.getppid(), signal.SIGTERM)
    os.environ.update(environment)
    from prefect import flow_engine

    sys.exit(flow_engine._main([entrypoint]))
