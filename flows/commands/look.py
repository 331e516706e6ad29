"""`trtflow list` and `trtflow show`."""

import json
from argparse import Namespace
from pathlib import Path

from flows.evidence import evidence
from flows.given import load_given
from flows.options import Options, chosen, open_store
from flows.pages.run_page import REPORT_PAGE
from flows.records import last_record
from flows.table import aligned
from flows.terminal import print_record
from tasks.core.config import Config
from tasks.core.errors import ConfigError, TrtflowError
from tasks.core.outcome import RunRecord
from tasks.core.promotions import Promotion, promotions_in
from tasks.core.store import Store


def command(parsed: Namespace, options: Options) -> int:
    """Look at what runs left; nothing is computed, but for `show --where`."""
    config, names = load_given(getattr(parsed, "names", []), options)
    store = open_store(options, config)
    if parsed.command == "list":
        return _list(config, store, options)
    (name,) = names
    record = _last(name, config, store, options)
    if parsed.where is not None and parsed.layers is not None:
        raise ConfigError("--where and --layers show different things", "ask for one of them")
    if parsed.layers is not None:
        from flows.commands.layers import show_layers

        return show_layers(record, parsed.layers, _current(store, name), options, store.root)
    if parsed.where is None:
        return _show(record, _current(store, name), store.root, options)
    from flows.commands.where import show_where

    return show_where(record, parsed.where, config, options, store)


def _current(store: Store, pipeline: str) -> Promotion | None:
    return promotions_in(store, pipeline).state().current


def _list(config: Config, store: Store, options: Options) -> int:
    rows: list[dict[str, str | None]] = []
    for name in config.pipelines:
        record, current = last_record(store, name), _current(store, name)
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


def _last(name: str, config: Config, store: Store, options: Options) -> RunRecord:
    chosen(config, [name], options)
    record = last_record(store, name)
    if record is None:
        raise TrtflowError(f"{name} was never run into the store at {store.place}", f"run it: trtflow run {name}")
    return record


def _show(record: RunRecord, current: Promotion | None, root: Path, options: Options) -> int:
    if options.json:
        promoted = current.model_dump(mode="json") if current else None
        print(json.dumps({"record": record.model_dump(mode="json"), "promoted": promoted}))
        return 0
    page = root / record.outcome.pipeline / "runs" / record.outcome.run / REPORT_PAGE
    print_record(evidence(root, record), current, page)
    return 0
