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
from tasks.runtimes.isolate import Home, Workers
from tasks.runtimes.protocol import resolve, types_of


def command(parsed: Namespace, options: Options) -> int:
    """Run the request in a folder of its own; exit 1 when a file comes out different."""
    root = store_root(options, load_config(options.file))
    folder = root / parsed.artifact
    if not folder.resolve().is_relative_to(root.resolve()) or not folder.is_dir():
        raise ConfigError(
            f"there is no artifact {parsed.artifact!r} in {root}", "name it <pipeline>/<step>/<key>, as run.json does"
        )
    kept = read_request(folder)
    if parsed.polygraphy:
        print(_polygraphy_line(folder, kept, Places(store=root, project=options.project, out=folder)))
        return 0
    with tempfile.TemporaryDirectory(prefix="trtflow-repro-") as scratch:
        out = Path(scratch)
        _run(kept, Places(store=root, project=options.project, out=out))
        compared = _compare(read_report(folder), out)
    if options.json:
        print(json.dumps({"artifact": parsed.artifact, "files": compared}))
    else:
        print("\n".join(f"{state:10} {name}" for name, state in compared.items()) or "the request makes no files")
    return 1 if "different" in compared.values() or "missing" in compared.values() else 0


def _run(kept: KeptRequest, places: Places) -> None:
    function = cast("Callable[[BaseModel], BaseModel]", resolve(kept.function))
    request = types_of(function).request.model_validate(places.show(kept.request))
    with Workers() as workers:
        workers.call(Home(preload=kept.preload), function, request, scratch=places.out / "scratch")


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
    """The command with which Polygraphy judges the same: for a graph's outputs, its errors against ours."""
    request = places.show(kept.request)
    model = request.get("model") if isinstance(request, dict) else None
    if (folder / "inputs.json").is_file() and isinstance(request, dict):
        engine = str(request["engine"])
        files = (str(folder / "inputs.json"), str(folder / "outputs.json"))
        return shlex.join(
            [
                "polygraphy",
                "run",
                engine,
                "--model-type",
                "onnx",
                "--onnxrt",
                "--load-inputs",
                files[0],
                "--load-outputs",
                files[1],
                "--rtol",
                "1e-4",
                "--atol",
                "1e-4",
            ]
        )
    if isinstance(model, str):
        return shlex.join(["polygraphy", "run", model, "--onnxrt"])
    raise ConfigError(
        f"{folder.parent.name} has no equal in Polygraphy", "name an artifact of parity, fold, quantize or build"
    )
