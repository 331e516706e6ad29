"""Tells machines that share a store when one of them removed something from it."""

import time
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import ValidationError

from tasks.core.errors import StoreError
from tasks.core.frozen import Frozen
from tasks.core.remote import Remote
from tasks.core.remote_errors import shown

NAME = "store.json"
_POLL_SECONDS = 1.0
# A collection that takes longer than this is taken for one that was killed.
_PATIENCE = timedelta(minutes=10)


class StoreState(Frozen):
    """`generation` changes with every collection; `collecting` is when one began that has not ended."""

    layout: Literal[1] = 1
    generation: str = ""
    collecting: datetime | None = None


@dataclass
class Generation:
    """The state of the remote store as this process knows it."""

    remote: Remote
    known: StoreState = field(default_factory=StoreState)

    def open(self) -> None:
        """Read it for the first time: also finds out whether the store can be reached at all."""
        self.known = self._read()

    def ensure(self) -> None:
        """Give a new store its first generation: one that was emptied is then not taken for what it was."""
        if not self.known.generation:
            first = StoreState(generation=uuid.uuid4().hex)
            self.remote.create(NAME, first.model_dump_json().encode())
            self.known = self._read()

    def moved(self) -> bool:
        """Whether something was collected since it was last read; waits for a collection at work."""
        found = self._read()
        while _is_at_work(found):
            time.sleep(_POLL_SECONDS)
            found = self._read()
        before, self.known = self.known, found
        return found.generation != before.generation

    def begin(self) -> StoreState:
        """Announce a collection, before it looks at what is needed; returns what the state was."""
        before = self._read()
        if _is_at_work(before):
            raise StoreError(
                f"another `gc` is at work on the store at {shown(self.remote.url)} since {before.collecting}",
                "run this one when that has ended; one that was killed counts as ended after ten minutes",
            )
        self._write(StoreState(generation=uuid.uuid4().hex, collecting=datetime.now(UTC)))
        return before

    def end(self, before: StoreState, *, removed: bool) -> None:
        """Announce its end: a new generation, unless all is still there."""
        self._write(StoreState(generation=uuid.uuid4().hex if removed else before.generation))

    def _read(self) -> StoreState:
        content = self.remote.read(NAME)
        try:
            return StoreState() if content is None else StoreState.model_validate_json(content)
        except ValidationError as error:
            raise StoreError(
                f"the store at {shown(self.remote.url)} is laid out for another version of trtflow",
                "use that version, or another place with --store",
                str(error),
            ) from error

    def _write(self, state: StoreState) -> None:
        self.remote.write(NAME, state.model_dump_json().encode())
        self.known = state


def _is_at_work(state: StoreState) -> bool:
    return state.collecting is not None and datetime.now(UTC) - state.collecting < _PATIENCE
