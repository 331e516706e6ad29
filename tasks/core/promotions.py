"""What is promoted: immutable records, and promoted.json derived from them."""

import contextlib
import hashlib
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, ValidationError

from tasks.core.digests import sha256_file
from tasks.core.errors import PromotionError, StoreError, TrustError
from tasks.core.files import store_errors, write_atomically
from tasks.core.frozen import Frozen
from tasks.core.locks import file_lock
from tasks.core.signing import KeySignature
from tasks.core.trust import Authority, history_problems, require, trusted

if TYPE_CHECKING:
    from tasks.core.mirror import Mirror
    from tasks.core.store import Store

_TIME = "%Y%m%dT%H%M%S.%fZ"
_TICK = timedelta(microseconds=1)


class Previous(Frozen):
    """The record before another one."""

    name: str
    sha256: str


class Promotion(Frozen):
    """One promotion or rollback; `id`, `key` and `files` are what is in force after it (empty: nothing is).

    `name` is that of its own file. All but the signature is signed: see `tasks.core.trust.payload`.
    """

    schema_version: Literal[1] = 1
    kind: Literal["promotion", "rollback"]
    pipeline: str
    id: str
    key: str
    artifact: str
    reason: str
    at: str
    by_hand: bool = False
    barred: str | None = None
    files: dict[str, str] = Field(default_factory=dict)
    name: str = ""
    previous: Previous | None = None
    signature: KeySignature | None = None


class PromotedState(Frozen):
    """Derived from the records: what is in force, and which keys may not be promoted by a run."""

    current: Promotion | None
    barred: tuple[str, ...]


class Choice(Frozen):
    """An engine to promote; `files` are the sha256 of its artifact's."""

    id: str
    key: str
    artifact: str
    reason: str
    files: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Promotions:
    """The promotions of one pipeline; with a `mirror`, those that any machine made.

    Where trust is asked for, records that cannot be trusted are a TrustError.
    """

    root: Path
    pipeline: str
    stop: threading.Event = field(default_factory=threading.Event)
    mirror: "Mirror | None" = None
    authority: Authority = field(default_factory=Authority)

    @property
    def folder(self) -> Path:
        """Folder of the records."""
        return self.root / self.pipeline / "promotions"

    @property
    def derived(self) -> Path:
        """The file that tells others what is in force."""
        return self.root / self.pipeline / "promoted.json"

    def records(self) -> list[Promotion]:
        """All records, oldest first."""
        self._pull()
        return self._known()

    def history(self) -> list[tuple[str, str, Promotion]]:
        """File name, sha256 and content of all records, oldest first, whether or not they can be trusted."""
        self._pull()
        return self._read_all()

    def state(self) -> PromotedState:
        """What is in force."""
        return _replay(self.records())[0]

    def in_force(self) -> list[Promotion]:
        """What is in force, then what was before it, newest first; what was rolled back is left out."""
        state, before = _replay(self.records())
        return [state.current, *reversed(before)] if state.current else []

    def promote(self, choice: Choice, *, by_hand: bool = False) -> Promotion:
        """Put an engine in force, unless it is already; by hand this also lifts the bar of its key."""
        with self._alone():
            state = self.state()
            if choice.key in state.barred and not by_hand:
                raise PromotionError(
                    f"{choice.id} was rolled back", f"to lift that: trtflow promote {self.pipeline} {choice.id}"
                )
            if state.current and self._stands(state.current, choice, by_hand=by_hand):
                self._derive()  # a run may have been killed between its record and this
                return state.current
            return self._write(
                Promotion(kind="promotion", pipeline=self.pipeline, at=_now(), by_hand=by_hand, **choice.model_dump())
            )

    def rollback(self, reason: str) -> Promotion:
        """Bar what is in force and put what was in force before it back."""
        with self._alone():
            state, before = _replay(self.records())
            if state.current is None:
                raise PromotionError(f"nothing of {self.pipeline} is promoted", "there is nothing to roll back")
            barred = state.current.key
            previous = next((old for old in reversed(before) if old.key not in (*state.barred, barred)), None)
            if previous is not None:
                trusted(self.root, previous, self.authority)
            return self._write(
                Promotion(
                    kind="rollback",
                    pipeline=self.pipeline,
                    id=previous.id if previous else "",
                    key=previous.key if previous else "",
                    artifact=previous.artifact if previous else "",
                    files=previous.files if previous else {},
                    reason=reason,
                    at=_now(),
                    by_hand=True,
                    barred=barred,
                )
            )

    def _stands(self, current: Promotion, choice: Choice, *, by_hand: bool) -> bool:
        """Whether the record in force says already what a promotion of `choice` would."""
        if (current.key, current.id) != (choice.key, choice.id):
            return False
        same = choice.files in ({}, current.files)
        if not same and self.authority.trusted and not by_hand:
            raise TrustError(
                f"{choice.id} of {self.pipeline} ({choice.key[:12]}) is in force, and its files are not those signed",
                f"an engine that was built again differs: look at it, then trtflow promote {self.pipeline} {choice.id}",
            )
        return same and (current.signature is not None or self.authority.signer is None)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with store_errors(self.root):
            self.folder.mkdir(parents=True, exist_ok=True)
            with file_lock(self.folder / ".promotions.lock", self.stop):
                yield

    def _known(self) -> list[Promotion]:
        history = self._read_all()
        if self.authority.trusted:
            require(self.root, self.pipeline, history_problems(history, self.pipeline, self.authority.trusted))
        return [record for _, _, record in history]

    def _read_all(self) -> list[tuple[str, str, Promotion]]:
        return [(path.name, *_read(path)) for path in self._paths()]

    def _pull(self) -> None:
        if self.mirror is not None:
            with store_errors(self.root):
                self.mirror.pull(f"{self.pipeline}/promotions")

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("[!.]*.json"))

    def _write(self, record: Promotion) -> Promotion:
        newest = max(self._paths(), default=None)
        previous = Previous(name=newest.name, sha256=sha256_file(newest)) if newest else None
        record = self.authority.sign(record.model_copy(update={"name": self._new_name(), "previous": previous}))
        content = record.model_dump_json(indent=1) + "\n"
        if self.mirror is not None:  # first: what the others do not know of is not in force here either
            self.mirror.push_new(f"{self.pipeline}/promotions/{record.name}", content)
        write_atomically(self.folder / record.name, content)
        self._derive()
        return record

    def _new_name(self) -> str:
        """A name behind all others: also when the clock was put back, or that of another host is ahead."""
        now = datetime.now(UTC)
        newest = max((_time_in(path.name) for path in self._paths()), default=now)
        return f"{max(now, newest + _TICK):{_TIME}}-{uuid.uuid4().hex[:6]}.json"

    def _derive(self) -> None:
        path = self.derived
        state = _replay(self._known())[0].model_dump_json(indent=1) + "\n"
        if not path.is_file() or path.read_bytes() != state.encode():
            write_atomically(path, state)
        if self.mirror is not None:
            self.mirror.push_text(f"{self.pipeline}/promoted.json", state)


def promotions_in(store: "Store", pipeline: str) -> Promotions:
    """The promotions of a pipeline in a store, remote or not."""
    mirror = store.shared.mirror if store.shared else None
    return Promotions(store.root, pipeline, store.stop, mirror, store.authority)


def _replay(records: list[Promotion]) -> tuple[PromotedState, list[Promotion]]:
    """State after all records, and the promotions that were in force before the current one, oldest first."""
    current: Promotion | None = None
    before: list[Promotion] = []
    barred: list[str] = []
    for record in records:
        if record.kind == "promotion":
            before += [current] if current else []
            barred = [key for key in barred if key != record.key]
            current = record
        else:
            barred += [record.barred] if record.barred else []
            current = record if record.key else None
            before = [old for old in before if old.key != record.key]
    return PromotedState(current=current, barred=tuple(dict.fromkeys(barred))), before


def _time_in(name: str) -> datetime:
    """The time that a record's name begins with; the beginning of time for a file that somebody else named."""
    try:
        return datetime.strptime(name.rpartition("-")[0], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)


def _read(path: Path) -> tuple[str, Promotion]:
    """The sha256 of a record's file, and the record."""
    try:
        content = path.read_bytes()
        return hashlib.sha256(content).hexdigest(), Promotion.model_validate_json(content)
    except (OSError, ValidationError) as error:
        raise StoreError(f"{path} is not a promotion record", "restore it from a backup, or remove it") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
