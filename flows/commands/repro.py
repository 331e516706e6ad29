"""`trtflow repro`: run the request that made an artifact again, and compare."""

import json
import shlex
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import cast

from pydantic import BaseModel

from flows.options import Options, store_root
from tasks.core.digests import sha256_file
from tasks.core.errors import ConfigError
from tasks.core.report import Report
from tasks.core.store import read_report
from tasks.core.yaml_source import load_config
from tasks.repro import REQUEST, KeptRequest, Places, read_request
from tasks.runtimes.isolate import Workers
from tasks.runtimes.protocol import resolve, types_of

# Polygraphy runs the same file again: what differs is the order of float additions, never more.
_TOLERANCE = "1e-4"


def command(parsed: Namespace, options: Options) -> int:
    """Run the request in a folder of its own; exit 1 when a file comes out different."""
    root = store_root(options, load_config(options.file))
    folder = _artifact_folder(root, parsed.artifact)
    kept = read_request(folder)
    if parsed.polygraphy:
        line = _polygraphy_line(folder, kept, Places(store=root, project=options.project, out=folder))
        print(json.dumps({"artifact": parsed.artifact, "polygraphy": line}) if options.json else line)
        return 0
    report = read_report(folder)
    with tempfile.TemporaryDirectory(prefix="trtflow-repro-") as scratch:
        out = Path(scratch)
        _run(kept, Places(store=root, project=options.project, out=out))
        compared = _compare(report, out)
    if options.json:
        print(json.dumps({"artifact": parsed.artifact, "files": compared}))
    else:
        print("\n".join(f"{state:10} {name}" for name, state in compared.items()) or "done; it leaves no files")
    return 0 if all(state == "identical" for state in compared.values()) else 1


def _artifact_folder(root: Path, name: str) -> Path:
    folder = root / name
    if not folder.resolve().is_relative_to(root.resolve()) or not (folder / "report.json").is_file():
        raise ConfigError(
            f"there is no artifact {name!r} in the store at {root}",
            "name it <pipeline>/<step>/<key>, as `artifacts` in run.json does",
        )
    return folder


def _run(kept: KeptRequest, places: Places) -> None:
    with Workers() as workers:
        for call in kept.calls:
            function = cast("Callable[[BaseModel], BaseModel]", resolve(call.function))
            request = types_of(function).request.model_validate(places.show(call.request))
            workers.call(call.home(places), function, request, scratch=places.out / "scratch")


def _compare(report: Report, out: Path) -> dict[str, str]:
    made = {path.name: path for path in out.iterdir() if path.is_file()}
    states = {}
    for record in report.files:
        if record.name == REQUEST:
            continue
        path = made.get(record.name)
        same = path is not None and sha256_file(path) == record.sha256
        states[record.name] = "identical" if same else "different" if path else "missing"
    return states


def _polygraphy_line(folder: Path, kept: KeptRequest, places: Places) -> str:
    """The command by which Polygraphy judges the same: for what an engine computed, its own run of it against ours."""
    request = places.show(kept.calls[0].request)
    engine, model = request.get("engine"), request.get("model")
    if engine and (folder / "inputs.json").is_file():
        compared = ["--load-inputs", str(folder / "inputs.json"), "--load-outputs", str(folder / "outputs.json")]
        bounds = ["--rtol", _TOLERANCE, "--atol", _TOLERANCE]
        return shlex.join(["polygraphy", "run", str(engine), "--model-type", "onnx", "--onnxrt", *compared, *bounds])
    if model:
        return shlex.join(["polygraphy", "run", str(model), "--model-type", "onnx", "--onnxrt"])
    raise ConfigError(
        f"Polygraphy has nothing that does what {folder.parent.name} does",
        "name an artifact of parity, or of a step that starts from an ONNX graph",
    )
