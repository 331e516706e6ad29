"""How much memory this process may still take: what the system has, and what its control group allows."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_GROUPS = Path("/sys/fs/cgroup")
_STATUS = Path("/proc/self/status")
_REFERENCES = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # see proc_pid_clear_refs(5)


def available_bytes(meminfo: Path = _MEMINFO, groups: Path = _GROUPS) -> int:
    """Bytes that can be taken without swapping, and without being killed for it."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(encoding="ascii"), re.MULTILINE)
    system = int(found[1]) * 1024 if found else 1 << 62
    return min((system, *_left_in_groups(groups)))


def peak_bytes() -> int:
    """The most host memory that this process held, since `forget_peak` where the system allows that."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def forget_peak() -> None:
    """Begin to measure the peak anew."""
    with contextlib.suppress(OSError):  # a container may forbid it: the peak is then that of the whole process
        _REFERENCES.write_text(_RESET_PEAK, encoding="ascii")


def _left_in_groups(groups: Path) -> Iterator[int]:
    """What each control group above this process has left (version 2; a limit of another version is not seen)."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # a system without control groups
        return
    line = next((line for line in lines if "::" in line), "")
    folder = groups / line.partition("::")[2].lstrip("/")
    while folder.is_relative_to(groups):
        left = _left(folder)
        if left is not None:
            yield left
        folder = folder.parent


def _left(group: Path) -> int | None:
    """What one group has left, None where it sets no limit."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        cached = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        return None
    # Pages of files that were not read lately are given back before anything is killed.
    return None if limit == "max" else int(limit) - used + (int(cached[1]) if cached else 0)
