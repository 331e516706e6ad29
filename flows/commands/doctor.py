"""`trtflow doctor`: which runtimes work here, and what to install for the rest."""

import json
import platform
import sys
from argparse import Namespace
from typing import get_args

from flows.options import Options
from tasks.core.config import RuntimeName
from tasks.core.environment import environment
from tasks.core.errors import WorkerError
from tasks.runtimes.base import Capabilities
from tasks.runtimes.engines import ProbeRequest, probe
from tasks.runtimes.isolate import Home, Workers
from tasks.runtimes.load import DEPLOYABLE


def command(parsed: Namespace, options: Options) -> int:
    """Probe every runtime in a worker, as a run would; exit 1 when none works that engines can be built for."""
    del parsed
    with Workers(timeout_seconds=60.0) as workers:
        found = [_probe(workers, name) for name in get_args(RuntimeName)]
    here = environment()
    if options.json:
        runtimes = [capabilities.model_dump(mode="json") for capabilities in found]
        print(json.dumps({"environment": here.model_dump(mode="json"), "runtimes": runtimes}))
    else:
        print(f"{here.os}, Python {here.python}, {here.cpu} ({here.cores} cores)")
        print(f"GPU: {here.gpu or 'none'}" + (f", driver {here.driver}" if here.driver else ""))
        print("packages: " + ", ".join(f"{name} {version}" for name, version in here.packages.items()))
        print("runtimes:")
        for capabilities in found:
            print(_line(capabilities))
        _warn()
    works = [runtime for runtime in found if runtime.available and not runtime.not_run]
    return 0 if any(runtime.runtime in DEPLOYABLE for runtime in works) else 1


def _probe(workers: Workers, name: str) -> Capabilities:
    try:
        return workers.call(Home(), probe, ProbeRequest(runtime=name))
    except WorkerError as error:
        return Capabilities(runtime=name, available=False, reason=error.message, cure=error.cure)


def _line(found: Capabilities) -> str:
    if not found.available:
        return f"  --  {found.runtime}: {'; '.join(filter(None, (found.reason, found.cure)))}"
    devices, precisions = ", ".join(found.devices), ", ".join(found.precisions)
    if found.not_run:
        return (
            f"  ok  {found.runtime} {found.version} builds, takes graphs in {precisions}; {found.not_run} to run them"
        )
    use = "" if found.runtime in DEPLOYABLE else "; a yardstick, never promoted"
    return f"  ok  {found.runtime} {found.version} on {devices}, takes graphs in {precisions}{use}"


def _warn() -> None:
    if platform.system() != "Linux":
        print(f"note: {platform.system()} was never tried: worker processes need Linux", file=sys.stderr)
