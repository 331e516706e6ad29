"""`trtflow repro`: run the request that made an artifact again, and compare."""

import json
import shutil
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import cast

from pydantic import BaseModel

from flows.commands.polygraphy_line import polygraphy_line
from flows.options import Options, open_store
from tasks.core.digests import sha256_file
from tasks.core.errors import ConfigError
from tasks.core.files import link_or_copy
from tasks.core.report import Report
from tasks.core.store import Store, read_report
from tasks.core.yaml_source import load_config
from tasks.repro import REQUEST, STORE, KeptRequest, Places, read_request
from tasks.runtimes.isolate import Workers
from tasks.runtimes.protocol import resolve, types_of


def command(parsed: Namespace, options: Options) -> int:
    """Run the request in a folder of its own; exit 1 when a file comes out different."""
    store = open_store(options, load_config(options.file))
    root, folder = store.root, _artifact_folder(store, parsed.artifact)
    kept = read_request(folder)
    if parsed.polygraphy:
        line = polygraphy_line(folder, kept, Places(store=root, project=options.project, out=folder))
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


def _artifact_folder(store: Store, name: str) -> Path:
    root, folder = store.root, store.root / name
    inside = folder.resolve().is_relative_to(root.resolve())
    if inside:
        store.bring(name)
        for other in read_report(folder).recipe.lineage if (folder / "report.json").is_file() else ():
            store.bring(other)
    if not inside or not (folder / "report.json").is_file():
        raise ConfigError(
            f"there is no artifact {name!r} in the store at {store.place}",
            "name it <pipeline>/<step>/<key>, as `artifacts` in run.json does",
        )
    return folder


def _run(kept: KeptRequest, places: Places) -> None:
    for name, source in kept.files.items():
        lay = link_or_copy if source.startswith(STORE) else shutil.copyfile  # a link would change the user's file
        lay(Path(str(places.show({name: source})[name])), places.out / name)
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
