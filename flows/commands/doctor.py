"""`trtflow doctor`: which runtimes work here, also by the YAML's interpreters, and what to install for the rest."""

import json
import platform
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import get_args

from flows.options import Options
from tasks.core.config import RuntimeName
from tasks.core.environment import environment
from tasks.core.errors import ConfigError, WorkerError
from tasks.core.yaml_source import load_config
from tasks.runtimes.base import Capabilities
from tasks.runtimes.engines import ProbeRequest, probe
from tasks.runtimes.install import GENERATIONS
from tasks.runtimes.interpreters import Interpreter, named, own
from tasks.runtimes.isolate import Home, Workers
from tasks.runtimes.load import DEPLOYABLE


def command(parsed: Namespace, options: Options) -> int:
    """Probe every runtime in a worker, as a run would; exit 1 when none works that engines can be built for."""
    del parsed
    places, unread = _interpreters(options)
    with Workers(timeout_seconds=60.0) as workers:
        found = [_probe(workers, own(name)) for name in get_args(RuntimeName)]
        elsewhere = {place.name: _probe(workers, place) for place in places}
    here = environment()
    if options.json:
        runtimes = [capabilities.model_dump(mode="json") for capabilities in found]
        others = {name: capabilities.model_dump(mode="json") for name, capabilities in elsewhere.items()}
        told = {"environment": here.model_dump(mode="json"), "runtimes": runtimes, "interpreters": others}
        print(json.dumps(told))
    else:
        print(f"{here.os}, Python {here.python}, {here.cpu} ({here.cores} cores)")
        print(f"GPU: {here.gpu or 'none'}" + (f", driver {here.driver}" if here.driver else ""))
        print("packages: " + ", ".join(f"{name} {version}" for name, version in here.packages.items()))
        print("runtimes:")
        for capabilities in found:
            print(_line(capabilities))
        if elsewhere:
            print(f"interpreters of {options.file}:")
        for place in places:
            print(_line(elsewhere[place.name], place))
        _print_lines(found)
        _warn()
    if unread:
        print(f"note: interpreters of the YAML were not looked at: {unread}", file=sys.stderr)
    works = [runtime for runtime in found if runtime.available and not runtime.not_run]
    return 0 if any(runtime.runtime in DEPLOYABLE for runtime in works) else 1


def _interpreters(options: Options) -> tuple[list[Interpreter], str]:
    """The YAML's, or why they are not known: a doctor is called where something is wrong, perhaps with the YAML."""
    if not options.file.is_file():
        return [], ""
    try:
        config = load_config(options.file)
    except ConfigError as error:
        return [], str(error)
    engines = [engine for pipeline in config.pipelines.values() for engine in pipeline.engines or ()]
    places = []
    for name, interpreter in config.interpreters.items():
        runtimes = [engine.runtime for engine in engines if name in (engine.interpreter, *engine.run_on)]
        rtx = interpreter.module == "tensorrt_rtx" or "tensorrt-rtx" in runtimes
        places.append(named("tensorrt-rtx" if rtx else "tensorrt", name, interpreter, options.project))
    return places, ""


def _probe(workers: Workers, place: Interpreter) -> Capabilities:
    module = place.module if place.name else ""
    try:
        return workers.call(Home(python=place.python), probe, ProbeRequest(runtime=place.runtime, module=module))
    except WorkerError as error:
        return Capabilities(runtime=place.runtime, available=False, reason=error.message, cure=error.cure)


def _line(found: Capabilities, place: Interpreter | None = None) -> str:
    name = f"{place.name} ({place.python}): {place.module}" if place else found.runtime
    if not found.available:
        below = "see below" if "pip install -c" in found.cure and not place else found.cure
        return f"  --  {name}: {'; '.join(filter(None, (found.reason, below)))}"
    devices, precisions = ", ".join(found.devices), ", ".join(found.precisions)
    if found.not_run:
        return f"  ok  {name} {found.version} builds, takes graphs in {precisions}; {found.not_run} to run them"
    use = "" if found.runtime in DEPLOYABLE else "; a yardstick, never promoted"
    takes = f"takes graphs in {precisions}" if precisions else "opens version-compatible engines, builds none"
    return f"  ok  {name} {found.version} on {devices}, {takes}{use}"


def _print_lines(found: Sequence[Capabilities]) -> None:
    """How each TensorRT is installed, where one is missing: one Python holds one of those that share a module name."""
    if all(capabilities.available for capabilities in found):
        return
    print("to install a TensorRT, each but RTX into a Python of its own, named under `interpreters:` in the YAML:")
    width = max(len(generation.name) for generation in GENERATIONS)
    for generation in GENERATIONS:
        python = "python3.11" if generation.name == "8.6" else "python"
        print(f"  {generation.name:{width}}  {generation.install(python)}")


def _warn() -> None:
    if platform.system() != "Linux":
        print(f"note: {platform.system()} was never tried: worker processes need Linux", file=sys.stderr)
