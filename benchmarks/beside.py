"""Records what ran beside each CPU benchmark on this machine: who held the host's lock, and what others computed.

Nothing of trtflow is asked. Who holds the lock is what the kernel says (/proc/locks), and what a process computed is
its processor time (/proc/PID/stat, ticks of 10 ms), looked at every 20 ms.
"""

import os
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

SAMPLE_SECONDS = 0.02
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


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
            holder, now = self.holder(), time.monotonic()
            spent = self._spent()
            if current and current.holder == holder:
                current.seconds = now - current.began
                for pid, seconds in spent.items():
                    current.seconds_of[self._role(pid, current.holder)] += seconds
            elif holder is None:
                current = None
            else:
                current = Alone(holder, now)
                self.stretches.append(current)

    def _spent(self) -> dict[int, float]:
        """Processor seconds of each process since the last look."""
        spent = {}
        for pid in self._ours():
            try:
                row = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            used = (int(row[11]) + int(row[12])) * _TICK_SECONDS
            spent[pid] = used - self._used.get(pid, used)
            self._used[pid] = used
        return spent

    def _ours(self) -> list[int]:
        there = {int(name) for name in os.listdir("/proc") if name.isdigit()}  # noqa: PTH208 - 50 times a second
        for pid in there - self._commands.keys():
            try:
                ours = self._mark in Path(f"/proc/{pid}/environ").read_bytes()
                command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            self._commands[pid] = command if ours else ""
        return [pid for pid in there if self._commands.get(pid)]

    def _role(self, pid: int, holder: int) -> str:
        command = self._commands[pid]
        if self._below(pid, holder):
            return "the benchmark itself"
        if "tasks.runtimes.worker" in command:
            return "steps of other runs"
        if "flows.server_process" in command:
            return "the Prefect server"
        return "trtflow up" if "flows.cli" in command else "flow runs that wait or start"

    def _below(self, pid: int, ancestor: int) -> bool:
        while pid > 1:
            if pid == ancestor:
                return True
            try:
                pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                return False
        return False
