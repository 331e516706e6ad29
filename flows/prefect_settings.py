"""What Prefect is told before it is imported."""

import logging
import os

from flows.prefect_http import LOOPBACK, PrefectHttp

_DEFAULTS = {
    # Its server reports to its makers unless told not to.
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    # A run that says nothing for a while is dead: what a server needs to tell one that works from one that was killed.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}


def keep_quiet() -> None:
    """Switch telemetry off, unless the user has set it, and do not tell twice what the progress tells."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    _ask_this_machine_directly()
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_news)


def _ask_this_machine_directly() -> None:
    """Have a proxy of the environment left out for a server on this machine: no proxy leads back here."""
    url = os.environ.get("PREFECT_API_URL")
    if not url or PrefectHttp.of(url, None, 0).host not in LOOPBACK:
        return
    for name in ("NO_PROXY", "no_proxy"):
        told = [part for part in os.environ.get(name, "").split(",") if part]
        os.environ[name] = ",".join([*told, *(host for host in LOOPBACK if host not in told)])


def what_is_off() -> str:
    """Say whether anything calls out, as the environment has it now."""
    if os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"].lower() in ("false", "0") and os.environ["DO_NOT_TRACK"] == "1":
        return "telemetry and calls to the outside are off"
    return "telemetry is on: PREFECT_SERVER_ANALYTICS_ENABLED or DO_NOT_TRACK asks for it"


def _is_news(record: logging.LogRecord) -> bool:
    """Where the run is to be seen is news, how its steps end is not; Prefect's own log has all of it."""
    if record.name == "prefect.flow_runs":
        return not record.getMessage().startswith("Finished in state")
    return record.name != "prefect.task_runs"
