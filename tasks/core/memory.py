"""How much memory this process may still take: what the system has, and what its control group allows."""

import re
from collections.abc import Iterator
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_GROUPS = Path("/sys/fs/cgroup")


def available_bytes(meminfo: Path = _MEMINFO, groups: Path = _GROUPS) -> int:
    """Bytes that can be taken without swapping, and without being killed for it."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(encoding="ascii"), re.MULTILINE)
    system = int(found[1]) * 1024 if found else 1 << 62
    return min((system, *_left_in_groups(groups)))


def _left_in_groups(groups: Path) -> Iterator[int]:
    """What each control group above this process has left (version 2; a limit of another version is not seen)."""
    lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    line = next((line for line in lines if "::" in line), "")
    folder = groups / line.partition("::")[2].lstrip("/")
    while folder.is_relative_to(groups):
        try:
            limit = (folder / "memory.max").read_text(encoding="ascii").strip()
            used = int((folder / "memory.current").read_text(encoding="ascii"))
            stat = (folder / "memory.stat").read_text(encoding="ascii")
        except (OSError, ValueError):  # no such limit here
            limit = "max"
        if limit != "max":
            cached = re.search(r"^inactive_file (\d+)", stat, re.MULTILINE)  # given back before anything is killed
            yield int(limit) - used + (int(cached[1]) if cached else 0)
        folder = folder.parent
