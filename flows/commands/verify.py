"""`trtflow verify`: whether what is in force is what a trusted key signed."""

from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from flows.authority import public_keys
from flows.options import Options, chosen, open_store
from tasks.core.errors import ConfigError, StoreError
from tasks.core.frozen import Frozen
from tasks.core.promotions import PromotedState, Promotion, Promotions, promotions_in
from tasks.core.signing import PublicKey
from tasks.core.store import Store
from tasks.core.trust import Authority, engine_problems, file_problems, history_problems, signature_problem
from tasks.core.yaml_source import load_config

_UNCHECKED = "no key to check signatures with: neither `trust:` in the YAML nor --key"


class Checked(Frozen):
    """The verdict on one pipeline; `nothing` is in force where none was ever promoted, or all was rolled back."""

    pipeline: str
    status: Literal["verified", "wrong", "nothing"]
    id: str = ""
    key: str = ""
    key_id: str = ""
    at: str = ""
    records: int = 0
    problems: tuple[str, ...] = ()


class CheckedAll(Frozen):
    """What `verify --json` prints."""

    verified: bool
    pipelines: tuple[Checked, ...]


def command(parsed: Namespace, options: Options) -> int:
    """Check pipelines of the store, or one engine that was copied out of it; exit 1 where one is not as signed."""
    if parsed.promotion or parsed.engine:
        found = [_copied(parsed)]
    else:
        config = load_config(options.file)
        store = open_store(options, config)
        keys = public_keys(parsed.key) if parsed.key else store.authority.trusted
        found = [_stored(store, name, keys) for name in chosen(config, parsed.names, options)]
    verified = all(each.status != "wrong" for each in found)
    if options.json:
        print(CheckedAll(verified=verified, pipelines=tuple(found)).model_dump_json())
    else:
        print("\n".join(_line(each) for each in found))
    return 0 if verified else 1


def _copied(parsed: Namespace) -> Checked:
    """Check what a host has that holds neither YAML nor store."""
    if not (parsed.promotion and parsed.engine and parsed.key):
        raise ConfigError("a copied engine is checked with --promotion, --engine and --key", "give all three")
    if parsed.names:
        raise ConfigError("--promotion names the pipeline itself", "leave the name out")
    keys = public_keys(parsed.key)
    record = _promoted(Path(parsed.promotion)).current
    if record is None:
        raise ConfigError(f"{parsed.promotion} says that nothing is in force", "copy promoted.json again")
    return _checked(
        record.pipeline, record, 1, [*_problems(record, keys), *file_problems(Path(parsed.engine), record.files)]
    )


def _promoted(path: Path) -> PromotedState:
    try:
        return PromotedState.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no promoted.json"
        raise ConfigError(f"{path} cannot be read: {why}", "name the promoted.json of the pipeline") from error


def _stored(store: Store, pipeline: str, keys: Sequence[PublicKey]) -> Checked:
    """Check all records of a pipeline, promoted.json and every file of the engine in force."""
    promotions = replace(promotions_in(store, pipeline), authority=Authority())  # what is wrong is listed, not raised
    try:
        history = promotions.history()
    except StoreError as error:
        return Checked(pipeline=promotions.pipeline, status="wrong", problems=(error.message,))
    state = promotions.state()
    problems = (
        [f"{name}: {problem}" for name, problem in history_problems(history, promotions.pipeline, keys)] if keys else []
    )
    record = state.current
    problems += _derived_problems(promotions, state, expected=bool(history))
    if record is not None:
        problems += [] if keys else _problems(record, keys)
        store.bring(record.artifact)
        problems += engine_problems(promotions.root, record)
    return _checked(promotions.pipeline, record, len(history), problems)


def _problems(record: Promotion, keys: Sequence[PublicKey]) -> list[str]:
    """What is wrong with one record's signature; without a key, whether it is signed at all."""
    if not keys:
        return [_UNCHECKED] if record.signature else ["unsigned", _UNCHECKED]
    problem = signature_problem(record, keys)
    return [f"the record is {problem}"] if problem else []


def _derived_problems(promotions: Promotions, state: PromotedState, *, expected: bool) -> Iterator[str]:
    path = promotions.derived
    if not path.exists():
        if expected:
            yield f"{path.name} is missing: the next promotion or run writes it"
        return
    try:
        same = _promoted(path) == state
    except ConfigError as error:
        yield error.message
        return
    if not same:
        yield f"{path.name} was altered: it is not what the records say"


def _checked(pipeline: str, record: Promotion | None, records: int, problems: Sequence[str]) -> Checked:
    if record is None:
        return Checked(
            pipeline=pipeline, status="wrong" if problems else "nothing", records=records, problems=tuple(problems)
        )
    return Checked(
        pipeline=pipeline,
        status="wrong" if problems else "verified",
        id=record.id,
        key=record.key,
        key_id=record.signature.key_id if record.signature else "",
        at=record.at,
        records=records,
        problems=tuple(problems),
    )


def _line(checked: Checked) -> str:
    engine = f"{checked.id} ({checked.key[:12]})" if checked.id else "nothing is in force"
    match checked.status:
        case "nothing":
            return f"{checked.pipeline}: nothing is in force"
        case "verified":
            return f"{checked.pipeline}: verified: {engine}, signed by {checked.key_id} at {checked.at}"
        case "wrong":
            return f"{checked.pipeline}: NOT VERIFIED: {engine}: {'; '.join(checked.problems)}"
