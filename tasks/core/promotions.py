"""What is promoted: immutable records, and promoted.json derived from them."""

import contextlib
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import ValidationError

from tasks.core.errors import PromotionError, StoreError
from tasks.core.files import store_errors, write_atomically
from tasks.core.frozen import Frozen
from tasks.core.locks import file_lock

if TYPE_CHECKING:
    from tasks.core.mirror import Mirror
    from tasks.core.store import Store

_TIME = "%Y%m%dT%H%M%S.%fZ"
_TICK = timedelta(microseconds=1)


class Promotion(Frozen):
    """One promotion or rollback; `id` and `key` are what is in force after it (empty: nothing is)."""

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


class PromotedState(Frozen):
    """Derived from the records: what is in force, and which keys may not be promoted by a run."""

    current: Promotion | None
    barred: tuple[str, ...]


class Choice(Frozen):
    """An engine to promote."""

    id: str
    key: str
    artifact: str
    reason: str


@dataclass(frozen=True)
class Promotions:
    """The promotions of one pipeline; with a `mirror`, those that any machine made."""

    root: Path
    pipeline: str
    stop: threading.Event = field(default_factory=threading.Event)
    mirror: "Mirror | None" = None

    @property
    def folder(self) -> Path:
        """Folder of the records."""
        return self.root / self.pipeline / "promotions"

    def records(self) -> list[Promotion]:
        """All records, oldest first."""
        if self.mirror is not None:
            with store_errors(self.root):
                self.mirror.pull(f"{self.pipeline}/promotions")
        return self._known()

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
            if state.current and (state.current.key, state.current.id) == (choice.key, choice.id):
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
            return self._write(
                Promotion(
                    kind="rollback",
                    pipeline=self.pipeline,
                    id=previous.id if previous else "",
                    key=previous.key if previous else "",
                    artifact=previous.artifact if previous else "",
                    reason=reason,
                    at=_now(),
                    by_hand=True,
                    barred=barred,
                )
            )

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with store_errors(self.root):
            self.folder.mkdir(parents=True, exist_ok=True)
            with file_lock(self.folder / ".promotions.lock", self.stop):
                yield

    def _known(self) -> list[Promotion]:
        return [_read(path) for path in self._paths()]

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("[!.]*.json"))

    def _write(self, record: Promotion) -> Promotion:
        name, content = self._new_name(), record.model_dump_json(indent=1) + "\n"
        if self.mirror is not None:  # first: what the others do not know of is not in force here either
            self.mirror.push_new(f"{self.pipeline}/promotions/{name}", content)
        write_atomically(self.folder / name, content)
        self._derive()
        return record

    def _new_name(self) -> str:
        """A name behind all others: also when the clock was put back, or that of another host is ahead."""
        now = datetime.now(UTC)
        newest = max((_time_in(path.name) for path in self._paths()), default=now)
        return f"{max(now, newest + _TICK):{_TIME}}-{uuid.uuid4().hex[:6]}.json"

    def _derive(self) -> None:
        path = self.root / self.pipeline / "promoted.json"
        state = _replay(self._known())[0].model_dump_json(indent=1) + "\n"
        if not path.is_file() or path.read_bytes() != state.encode():
            write_atomically(path, state)
        if self.mirror is not None:
            self.mirror.push_text(f"{self.pipeline}/promoted.json", state)


def promotions_in(store: "Store", pipeline: str) -> Promotions:
    """The promotions of a pipeline in a store, remote or not."""
    mirror = store.shared.mirror if store.shared else None
    return Promotions(store.root, pipeline, store.stop, mirror)


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


def _read(path: Path) -> Promotion:
    try:
        return Promotion.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise StoreError(f"{path} is not a promotion record", "restore it from a backup, or remove it") from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
