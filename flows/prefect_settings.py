"""What Prefect is told before it is imported."""

import os

_DEFAULTS = {
    # Its server reports to its makers unless told not to.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
}


def keep_quiet() -> None:
    """Switch telemetry off, unless the user has set it."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
