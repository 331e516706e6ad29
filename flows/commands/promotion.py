"""`trtflow promote` and `trtflow rollback`: decisions by hand."""

from argparse import Namespace

from flows.given import load_given
from flows.journal import Journal
from flows.options import Options, chosen, open_store
from flows.pages.publish import write_index_page
from flows.records import last_record
from flows.terminal import tell
from tasks.context import Context
from tasks.core.errors import PromotionError, StoreError
from tasks.core.promotions import Choice, Promotion, promotions_in
from tasks.core.store import Store, read_report
from tasks.runtimes.isolate import Workers
from tasks.runtimes.load import DEPLOYABLE


def command(parsed: Namespace, options: Options) -> int:
    """Write a promotion or a rollback."""
    config, (name,) = load_given([parsed.name], options)
    pipeline = chosen(config, [name], options)[name]
    store = open_store(options, config, signs=True)
    if parsed.command == "promote":
        record = _promote(store, name, parsed.id)
    else:
        record = promotions_in(store, name).rollback(parsed.reason)
    _refresh(Context(name, pipeline, store, Workers(), Journal(), dry=True))
    if options.json:
        print(record.model_dump_json())
    else:
        print(_sentence(record))
    return 0


def _refresh(context: Context) -> None:
    """Have the pipeline's page tell what is in force; a rollback neither waits for its chart nor fails for it."""
    try:
        write_index_page(context)
    except StoreError as error:
        tell(f"{context.pipeline}: note: its page could not be written: {error}")


def _promote(store: Store, name: str, wanted: str) -> Promotion:
    record = last_record(store, name)
    found = {engine.id: engine for engine in record.outcome.engines} if record else {}
    engine = found.get(wanted)
    if engine is None:
        raise PromotionError(
            f"the last run of {name} has no engine {wanted!r}", f"it has: {', '.join(found) or 'none: run it first'}"
        )
    if engine.status != "passed" or engine.artifact is None:
        raise PromotionError(
            f"{wanted} did not pass: {engine.status}: {engine.reason}", "only an engine that passed can be promoted"
        )
    if engine.runtime not in DEPLOYABLE:
        raise PromotionError(
            f"{wanted} is built for {engine.runtime}, which is a yardstick and never promoted",
            f"choose an engine for {' or '.join(DEPLOYABLE)}",
        )
    store.bring(engine.artifact)
    report = read_report(store.root / engine.artifact)
    built = report.artifact
    for file in built.files:
        store.file(built, file)
    files = {record.name: record.sha256 for record in report.files}
    choice = Choice(id=engine.id, key=built.key, artifact=built.folder, reason="promoted by hand", files=files)
    written = promotions_in(store, name).promote(choice, by_hand=True)
    store.settle((engine.artifact, *report.recipe.lineage))
    return written


def _sentence(record: Promotion) -> str:
    if record.kind == "promotion":
        return f"promoted {record.pipeline} {record.id} ({record.key[:12]})"
    back = f"{record.id} ({record.key[:12]}) is in force again" if record.key else "nothing is in force now"
    return f"rolled back {record.pipeline}: {(record.barred or '')[:12]} is barred, {back}"
