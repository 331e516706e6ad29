"""Which flow runs have a process on this host: what a `trtflow up` that was killed leaves behind for the next one.

A file for each, with the process's id and its start, in a folder of `up`: gone once the API has the run's last state.
"""

import contextlib
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from flows.api import Api, Json
from tasks.core.errors import TrtflowError
from tasks.core.files import write_atomically
from tasks.core.outcome import RunRecord

_FINAL = frozenset({"COMPLETED", "FAILED", "CRASHED", "CANCELLED"})
_WAITING = frozenset({"SCHEDULED", "PAUSED"})
_STOPPED = "stopped"
_GONE = "its process is gone and left no word: it was killed, or the host went down"
_KEPT = "what it finished is kept in the store: run it again, and the rest is done"


@dataclass(frozen=True)
class Settled:
    """A run whose state was put right."""

    name: str
    state: str


@dataclass
class Claims:
    """The folder, and the store in which runs leave their records."""

    folder: Path
    store: Path
    _dead: set[str] = field(default_factory=set)

    def add(self, flow_run: str, pid: int) -> None:
        """Note which process is the flow run's."""
        write_atomically(self.folder / flow_run, f"{pid} {_begun(pid)}\n")

    def stop(self, flow_run: str) -> None:
        """Note that `up` stops it: whoever tells its state, however late, gives it back."""
        claim = self.folder / flow_run
        with contextlib.suppress(FileNotFoundError):  # it has ended, and its state was told
            write_atomically(claim, f"{claim.read_text().strip()} {_STOPPED}\n")

    def settle(self, api: Api, *, patient: bool = True) -> list[Settled]:
        """Give every run whose process is gone its true state.

        A patient caller leaves it to the run's own last word, which may be under way, until it asks a second time.
        """
        settled: list[Settled] = []
        refused: list[TrtflowError] = []
        for claim in sorted(self.folder.glob("[0-9a-f]*")):
            if _alive(claim):
                continue
            if patient and claim.name not in self._dead:
                self._dead.add(claim.name)
                continue
            try:
                found = self._settle(api, claim)
            except TrtflowError as error:  # it is asked again, and the others are not kept waiting
                refused.append(error)
                continue
            settled += [found] if found else []
            claim.unlink(missing_ok=True)
            self._dead.discard(claim.name)
        if refused and not settled:
            raise refused[0]
        return settled

    def release(self, api: Api, deployments: list[str]) -> list[Settled]:
        """Give back the runs that were claimed and have no process: who claimed them died before it started one."""
        question: Json = {"state": {"type": {"any_": ["PENDING"]}}}
        waiting = api.all("/flow_runs/filter", flow_runs=question, deployments={"id": {"any_": [*deployments]}})
        lost = [run for run in waiting if not (self.folder / str(run["id"])).exists()]
        for run in lost:
            _set_state(api, str(run["id"]), _scheduled("claimed by a process that is gone"))
        return [Settled(str(run["name"]), "scheduled") for run in lost]

    def _settle(self, api: Api, claim: Path) -> Settled | None:
        found = api.all("/flow_runs/filter", flow_runs={"id": {"any_": [claim.name]}})
        stopped = _STOPPED in claim.read_text().split()
        # One that was stopped before it could listen tells a crash.
        told = _FINAL - {"CRASHED"} if stopped else _FINAL
        if not found or found[0]["state_type"] in told | _WAITING:
            return None
        state = self._true_state(found[0], stopped=stopped)
        _set_state(api, claim.name, state)
        return Settled(str(found[0]["name"]), str(state["type"]).lower())

    def _true_state(self, run: Json, *, stopped: bool) -> Json:
        """As its record says, if it wrote one; else it crashed, unless it was being cancelled or `up` stopped it."""
        if run["state_type"] == "CANCELLING":
            return {"type": "CANCELLED", "name": "Cancelled", "message": "cancelled; its process is gone"}
        record = self._record(str(run["name"]).partition(" ")[0], str(run["id"])[-6:], str(run["start_time"]))
        if record is None and stopped:
            return _scheduled("stopped with `trtflow up`; goes on when it is started again")
        if record is None:
            return {"type": "CRASHED", "name": "Crashed", "message": f"{_GONE}; {_KEPT}"}
        passed = record.outcome.status == "passed"
        message = f"told by its record, {record.outcome.run}: {record.failure or record.outcome.status}"
        return {
            "type": "COMPLETED" if passed else "FAILED",
            "name": "Completed" if passed else "Failed",
            "message": message,
        }

    def _record(self, pipeline: str, suffix: str, started: str) -> RunRecord | None:
        """The record of the run, if it came to an end of its own."""
        for place in sorted(self.store.joinpath(pipeline, "runs").glob(f"*-{suffix}/run.json"), reverse=True):
            with contextlib.suppress(OSError, ValueError):
                record = RunRecord.model_validate_json(place.read_bytes())
                if record.started[:19] >= started[:19] and record.outcome.status != "interrupted":
                    return record
        return None


def _set_state(api: Api, flow_run: str, state: Json) -> None:
    """Set a state, whatever the one before it was."""
    api.change("POST", "/flow_runs/{id}/set_state", flow_run, {"state": state, "force": True})


def _scheduled(message: str) -> Json:
    """The state of a run that is to start at the next opportunity."""
    now = datetime.now(UTC).isoformat()
    return {"type": "SCHEDULED", "name": "AwaitingRetry", "message": message, "state_details": {"scheduled_time": now}}


def _alive(claim: Path) -> bool:
    try:
        pid, begun, *_ = claim.read_text().split()
        return _begun(int(pid)) == begun != ""
    except (OSError, ValueError):
        return False


def _begun(pid: int) -> str:
    """When a process began, in the kernel's ticks, for its id may be another's by now. Empty: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return "" if Path("/proc/self").exists() or not _exists(pid) else "unknown"
    return "" if fields[0] == "Z" else fields[19]


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
