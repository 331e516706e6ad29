"""Records what ran beside each CPU benchmark on this machine: who held the host's lock, and what others computed.

Nothing of trtflow is asked. Who holds the lock is what the kernel says (/proc/locks), and what a process computed is
its processor time (the kernel's clock of it, in nanoseconds), looked at every 20 ms.
"""

import os
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_SECONDS = 0.02
_WORKER = "tasks.runtimes.worker"


@dataclass
class Alone:
    """One stretch of time in which a process held the lock alone; `seconds_of` is processor time of others by role."""

    holder: int
    began: float
    seconds: float = 0.0
    seconds_of: dict[str, float] = field(default_factory=lambda: defaultdict(float))


class Recorder:
    """Watches every process whose environment has `mark`, in a thread, from `with` to its end."""

    def __init__(self, lock: Path, mark: str) -> None:
        self._lock = lock
        self._mark = mark.encode()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._commands: dict[int, str] = {}
        self._parents: dict[int, int] = {}
        self._used: dict[int, float] = {}
        self.stretches: list[Alone] = []

    def __enter__(self) -> "Recorder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def holder(self) -> int | None:
        """The process that holds the lock alone."""
        inode = str(self._lock.stat().st_ino) if self._lock.exists() else ""
        for line in Path("/proc/locks").read_text().splitlines():
            row = line.split()
            if "->" not in row and row[1] == "FLOCK" and row[3] == "WRITE" and row[5].rpartition(":")[2] == inode:
                return int(row[4])
        return None

    def _watch(self) -> None:
        current: Alone | None = None
        while not self._stop.wait(SAMPLE_SECONDS):
            holder, now, spent = self.holder(), time.monotonic(), self._spent()
            if holder is None or self.holder() != holder:  # it changed while the clocks were read
                current = None
            elif current and current.holder == holder:
                current.seconds = now - current.began
                for pid, seconds in spent.items():
                    current.seconds_of[self._role(pid, holder)] += seconds
            else:
                current = Alone(holder, now)
                self.stretches.append(current)

    def _spent(self) -> dict[int, float]:
        """Processor seconds of each process since the last look."""
        spent = {}
        for pid in self._ours():
            try:
                used = time.clock_gettime(_clock_of(pid))
            except OSError:  # it has ended
                continue
            spent[pid] = used - self._used.get(pid, used)
            self._used[pid] = used
        return spent

    def _ours(self) -> list[int]:
        there = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208 - 50 times a second
        for pid in there - self._commands.keys():
            try:
                ours = self._mark in Path(f"/proc/{pid}/environ").read_bytes()
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            self._commands[pid] = command if ours else ""
            self._parents[pid] = parent  # as it was first seen: what is left of a killed run gets another one
        return [pid for pid in there if self._commands.get(pid)]

    def _role(self, pid: int, holder: int) -> str:
        line = self._line(pid)
        workers = sum(_WORKER in self._commands.get(ancestor, "") for ancestor in line)
        if holder in line:
            return "the benchmark itself"
        if workers:
            return "steps of other runs" if workers > 1 else "importers of other runs, idle or ending"
        if "flows.server_process" in self._commands[pid]:
            return "the Prefect server"
        return "trtflow up" if "flows.cli" in self._commands[pid] else "flow runs that wait or start"

    def _line(self, pid: int) -> list[int]:
        """A process, its parent, and so on; a step is a worker that a worker forked."""
        line = [pid]
        while line[-1] in self._parents:
            line.append(self._parents[line[-1]])
        return line


def _clock_of(pid: int) -> int:
    """The clock of a process's processor time: clock_getcpuclockid(3) of Linux, which Python does not have."""
    return (~pid << 3) | 2
