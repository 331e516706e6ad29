"""Limits on the tags of tasks, asked for once in each run.

Prefect 3.8.8 asks the server before every task, by a client of its own for each set of tags: for the forty steps of a
run that is as much work as all that it tells about them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefect import task_engine
from prefect.client.orchestration import get_client

_MOST = 200  # that a server tells at once


@contextmanager
def asked_once() -> Iterator[None]:
    """Have tasks wait for limits of those tags only that have one now."""
    engine: Any = task_engine  # what is replaced is not public
    acquire = engine._concurrency
    with get_client(sync_client=True) as client:
        found = client.read_global_concurrency_limits(limit=_MOST)
    limited = {limit.name for limit in found} if len(found) < _MOST else None

    def acquire_limited(names: list[str], **given: Any) -> Any:  # noqa: ANN401 - as Prefect calls it
        return acquire(names if limited is None else [name for name in names if name in limited], **given)

    engine._concurrency = acquire_limited
    try:
        yield
    finally:
        engine._concurrency = acquire
