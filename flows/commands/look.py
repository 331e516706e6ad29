"""`trtflow list` and `trtflow show`."""

import json
from argparse import Namespace
from pathlib import Path

from flows.evidence import evidence
from flows.options import Options, chosen, store_root
from flows.pages.run_page import REPORT_PAGE
from flows.records import last_record
from flows.table import aligned
from flows.terminal import print_record
from tasks.core.config import Config
from tasks.core.errors import TrtflowError
from tasks.core.outcome import RunRecord
from tasks.core.promotions import Promotion, Promotions
from tasks.core.yaml_source import load_config


def command(parsed: Namespace, options: Options) -> int:
    """Look at what runs left; nothing is computed, but for `show --where`."""
    config = load_config(options.file)
    root = store_root(options, config)
    if parsed.command == "list":
        return _list(config, root, options)
    (name,) = parsed.names
    record = _last(name, config, root, options)
    if parsed.where is None:
        return _show(record, _current(root, name), root, options)
    from flows.commands.where import show_where

    return show_where(record, parsed.where, config, options, root)


def _current(root: Path, pipeline: str) -> Promotion | None:
    return Promotions(root, pipeline).state().current


def _list(config: Config, root: Path, options: Options) -> int:
    rows: list[dict[str, str | None]] = []
    for name in config.pipelines:
        record, current = last_record(root, name), _current(root, name)
        rows.append(
            {
                "pipeline": name,
                "last_run": record.outcome.run if record else None,
                "status": record.outcome.status if record else None,
                "promoted": current.id if current else None,
            }
        )
    if options.json:
        print(json.dumps({"pipelines": rows}))
        return 0
    _print(rows)
    return 0


def _print(rows: list[dict[str, str | None]]) -> None:
    blank = {"last_run": "never run", "status": "", "promoted": "nothing"}
    lines: list[tuple[str, ...]] = [("pipeline", "last run", "status", "promoted")]
    lines += [tuple(value or blank[name] for name, value in row.items()) for row in rows]
    print("\n".join(aligned(lines)))


def _last(name: str, config: Config, root: Path, options: Options) -> RunRecord:
    chosen(config, [name], options)
    record = last_record(root, name)
    if record is None:
        raise TrtflowError(f"{name} was never run into the store at {root}", f"run it: trtflow run {name}")
    return record


def _show(record: RunRecord, current: Promotion | None, root: Path, options: Options) -> int:
    if options.json:
        promoted = current.model_dump(mode="json") if current else None
        print(json.dumps({"record": record.model_dump(mode="json"), "promoted": promoted}))
        return 0
    page = root / record.outcome.pipeline / "runs" / record.outcome.run / REPORT_PAGE
    print_record(evidence(root, record), current, page)
    return 0
