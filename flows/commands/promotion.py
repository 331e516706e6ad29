"""`trtflow promote` and `trtflow rollback`: decisions by hand."""

from argparse import Namespace

from flows.authority import authority_of
from flows.options import Options, chosen, store_root
from flows.records import last_record
from tasks.core.errors import PromotionError
from tasks.core.promotions import Choice, Promotion, Promotions
from tasks.core.store import Store, artifact_of, read_report
from tasks.core.yaml_source import load_config
from tasks.runtimes.load import DEPLOYABLE


def command(parsed: Namespace, options: Options) -> int:
    """Write a promotion or a rollback."""
    config = load_config(options.file)
    chosen(config, [parsed.name], options)
    root = store_root(options, config)
    promotions = Promotions(root, parsed.name, authority=authority_of(config, options, signs=True))
    if parsed.command == "promote":
        record = _promote(promotions, options, parsed.id)
    else:
        record = promotions.rollback(parsed.reason)
    if options.json:
        print(record.model_dump_json())
    else:
        print(_sentence(record))
    return 0


def _promote(promotions: Promotions, options: Options, wanted: str) -> Promotion:
    root, name = promotions.root, promotions.pipeline
    record = last_record(root, name)
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
    store = Store(root, options.project)
    report = read_report(root / engine.artifact)
    built = artifact_of(report)
    for file in built.files:
        store.file(built, file)
    files = {record.name: record.sha256 for record in report.files}
    choice = Choice(id=engine.id, key=built.key, artifact=built.folder, reason="promoted by hand", files=files)
    return promotions.promote(choice, by_hand=True)


def _sentence(record: Promotion) -> str:
    if record.kind == "promotion":
        return f"promoted {record.pipeline} {record.id} ({record.key[:12]})"
    back = f"{record.id} ({record.key[:12]}) is in force again" if record.key else "nothing is in force now"
    return f"rolled back {record.pipeline}: {(record.barred or '')[:12]} is barred, {back}"
