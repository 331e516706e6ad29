"""Which announced checkpoint is converted: the newest. A run that works is left to finish; those between give way."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.client.schemas.sorting import FlowRunSort

Standing = Literal["waiting", "running", "done", "spared", "failed", "cancelled"]
# The name of the Completed state of a run that left its work to another, which had done it.
SPARED = "AlreadyConverted"
DIGEST = "trtflow.checkpoint"  # the label that holds the digest of what a run converts
_STILL_COUNT = frozenset({"waiting", "running", "done", "spared"})
_PAGE = 200
_STANDINGS: dict[str, Standing] = {
    "SCHEDULED": "waiting",
    "PENDING": "waiting",
    "PAUSED": "waiting",
    "RUNNING": "running",
    "COMPLETED": "done",
    "FAILED": "failed",
    "CRASHED": "failed",
}


@dataclass(frozen=True)
class Announced:
    """One flow run of a deployment, as far as the rule looks at it.

    `occurred` is None for a run that no event started, `digest` until the checkpoint was fetched, `started` until then.
    """

    id: str
    name: str
    standing: Standing
    occurred: datetime | None
    event: str = ""
    digest: str | None = None
    started: datetime | None = None

    @property
    def place(self) -> tuple[datetime, str, str] | None:
        """Its place in the order of events; the event's id decides between two of the same moment."""
        return None if self.occurred is None else (self.occurred, self.event, self.id)


@dataclass(frozen=True)
class Verdict:
    """Why a run does nothing: a newer event `superseded` it, or what it announced was `converted` last already."""

    kind: Literal["superseded", "converted"]
    by: Announced

    @property
    def message(self) -> str:
        """For the state of the run."""
        which = f"{self.by.name} ({self.by.id})"
        return f"superseded by {which}" if self.kind == "superseded" else f"this checkpoint was converted by {which}"


def decide(run: Announced, others: Iterable[Announced]) -> Verdict | None:
    """Say why a run that is about to work should not; None where it should."""
    if run.place is None:
        return None
    others = [other for other in others if other.id != run.id]
    newer = [(other.place, other) for other in others if other.place is not None and _is_newer(other, run)]
    if newer:
        return Verdict("superseded", max(newer, key=lambda each: each[0])[1])
    last = _last_work(others)
    same = run.digest is not None and last is not None and last.digest == run.digest
    # One that still works may fail, or be dead already: then this run is what is left of the announcement.
    return Verdict("converted", last) if last and same and last.standing == "done" and last.occurred else None


def outdone(by: Announced, others: Iterable[Announced]) -> list[Announced]:
    """Those that wait and that this one supersedes."""
    return [other for other in others if other.standing == "waiting" and other.place and _is_newer(by, other)]


def _is_newer(other: Announced, run: Announced) -> bool:
    if other.place is None or run.place is None:
        return False
    return other.place > run.place and other.standing in _STILL_COUNT


def _last_work(others: Sequence[Announced]) -> Announced | None:
    """The run that worked last, also one that failed: it may have got as far as its promotion."""
    worked = [(other.started, other) for other in others if other.standing in ("running", "done", "failed")]
    begun = [(started, other) for started, other in worked if started is not None]
    return max(begun, key=lambda each: (each[0], each[1].id))[1] if begun else None


def superseded_by(flow_run: UUID, digest: str | None = None) -> Verdict | None:
    """Ask the Prefect API why a flow run that has begun should do nothing; None where it should work.

    Without a digest it is asked before the checkpoint is fetched. With one, the digest is noted on the run, for those
    that come after it. Runs that wait and are superseded too are cancelled at once.
    """
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        own = client.read_flow_run(flow_run)
        if own.deployment_id is None:
            return None
        if digest is not None:
            client.update_flow_run_labels(flow_run, {DIGEST: digest})
        run = replace(announced(own, own.name), standing="running", digest=digest)
        others = [announced(other, own.name) for other in _others(client, own.deployment_id)]
        verdict = decide(run, others)
        newest = verdict.by if verdict and verdict.kind == "superseded" else run
        if newest is not run or digest is not None:  # until it is fetched, its checkpoint may be none
            _cancel(client, outdone(newest, [other for other in others if other.id != run.id]), newest)
        return verdict


def ended(verdict: Verdict) -> "State[Any]":
    """The state that a flow run ends in by a verdict."""
    from prefect.states import Cancelled, Completed

    if verdict.kind == "superseded":
        return Cancelled(message=verdict.message)
    return Completed(name=SPARED, message=verdict.message)


def _cancel(client: "SyncPrefectClient", waiting: Iterable[Announced], newest: Announced) -> None:
    """End them here, which saves the start of a process each; one that starts just now finds out by itself."""
    for other in waiting:
        client.set_flow_run_state(UUID(other.id), ended(Verdict("superseded", newest)))
        client.update_flow_run(UUID(other.id), name=other.name)  # it never begins, and would keep a made-up name


def _others(client: "SyncPrefectClient", deployment: UUID) -> "list[FlowRun]":
    """All runs of a deployment that are not over, and the last ones that are."""
    from prefect.client.schemas.sorting import FlowRunSort

    alive = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED"]
    found: list[FlowRun] = []
    while len(found) % _PAGE == 0:
        page = _page(client, deployment, alive, FlowRunSort.ID_DESC, len(found))
        found += page
        if not page:
            break
    found += _page(client, deployment, ["COMPLETED", "FAILED", "CRASHED"], FlowRunSort.START_TIME_DESC, 0)
    return list({run.id: run for run in found}.values())


def _page(
    client: "SyncPrefectClient",
    deployment: UUID,
    states: list[str],
    sort: "FlowRunSort",
    offset: int,
) -> "list[FlowRun]":
    from prefect.client.schemas.filters import FlowRunFilter

    asked = FlowRunFilter.model_validate({"deployment_id": {"any_": [deployment]}, "state": {"type": {"any_": states}}})
    return client.read_flow_runs(flow_run_filter=asked, sort=sort, limit=_PAGE, offset=offset)


def announced(run: "FlowRun", name: str) -> Announced:
    """Read a run; `name` is that of one of the same deployment, which began and so has its lasting name."""
    state, parameters = run.state, run.parameters
    standing: Standing = _STANDINGS.get(state.type.value, "cancelled") if state else "waiting"
    if state and standing == "done" and state.name == SPARED:
        standing = "spared"
    digest = run.labels.get(DIGEST)
    return Announced(
        str(run.id),
        _lasting_name(run, name) if standing == "waiting" else run.name,
        standing,
        _heard(run),
        str(parameters.get("event") or ""),
        str(digest) if digest else None,
        run.start_time,
    )


def _lasting_name(run: "FlowRun", name: str) -> str:
    """Prefect makes up a name for a run that waits, and gives it its own when it begins."""
    pipeline, separator, _ = name.partition(" · ")
    return f"{pipeline} · {str(run.id)[-6:]} · retrained" if separator else run.name


def _heard(run: "FlowRun") -> datetime | None:
    """When its event occurred, at the latest when the server heard of it: a sender's clock may be ahead."""
    occurred = _occurred(run.parameters)
    return min(occurred, run.created) if occurred and run.created else occurred


def _occurred(parameters: dict[str, Any]) -> datetime | None:
    """When the event of a run occurred; None for a run of a schedule, or by hand."""
    given = parameters.get("occurred")
    if isinstance(given, str):
        try:
            given = datetime.fromisoformat(given)
        except ValueError:
            return None
    return given if isinstance(given, datetime) and given.tzinfo else None
