"""What Prefect is told before it is imported."""

import logging
import os

_DEFAULTS = {
    # Its server reports to its makers unless told not to.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


def keep_quiet() -> None:
    """Switch telemetry off, unless the user has set it, and do not tell twice what the progress tells."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """Where the run is to be seen is news, how its steps end is not; Prefect's own log has all of it."""
    if record.name == "prefect.flow_runs":
        return not record.getMessage().startswith("Finished in state")
    return record.name != "prefect.task_runs"
