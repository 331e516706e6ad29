"""Which distributions another Python has, read from its folders: a cached run starts no Python to ask it."""

import functools
import os
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

_DIST_INFO = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)\.(?:dist|egg)-info")
_ASK = "import sys; print(*sys.path, sep='\\n')"
_ASK_SECONDS = 30.0


def versions_in(python: str, distributions: Iterable[str]) -> dict[str, str]:
    """Versions of those distributions that another Python has, for an artifact's key."""
    found = _distributions(python)
    return {name: found[name] for name in distributions if name in found}


def _distributions(python: str) -> dict[str, str]:
    """All of them, by normalised name; the first folder on the path wins, as in an import.

    Looked up each time, for what is installed may change while a server of ours goes on.
    """
    found: dict[str, str] = {}
    for folder in _with_linked(_search_path(python)):
        for entry in sorted(_names(folder)):
            if match := _DIST_INFO.fullmatch(entry):
                found.setdefault(re.sub(r"[-_.]+", "-", match["name"]).lower(), match["version"])
    return found


def _search_path(python: str) -> list[Path]:
    own = _venv_packages(Path(python))
    given = [Path(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return [*given, own] if own else _asked(python)


def _venv_packages(python: Path) -> Path | None:
    """The one folder of packages of a virtual environment; None where only the interpreter itself knows its folders."""
    root = python.parent.parent  # of the link: what it leads to belongs to no environment
    try:
        text = (root / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return None
    said = {key.strip().lower(): value.strip() for key, _, value in (line.partition("=") for line in text.splitlines())}
    version = re.match(r"\d+\.\d+", said.get("version", said.get("version_info", "")))
    if version is None or said.get("include-system-site-packages", "").lower() == "true":
        return None
    folder = root / "lib" / f"python{version[0]}" / "site-packages"
    return folder if folder.is_dir() else None


@functools.cache
def _asked(python: str) -> list[Path]:
    """Start it, once; one that cannot be started has nothing, and a worker of its engines will say why."""
    try:
        said = subprocess.run(  # noqa: S603  the interpreter is the user's own choice
            [python, "-c", _ASK], capture_output=True, text=True, timeout=_ASK_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [Path(line) for line in said.stdout.splitlines() if line]


def _with_linked(folders: Iterable[Path]) -> Iterator[Path]:
    """Folders, each followed by those that its .pth files add."""
    for folder in folders:
        yield folder
        for name in sorted(_names(folder)):
            if name.endswith(".pth"):
                lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
                yield from (folder / line for line in lines if line.strip() and not line.startswith(("import", "#")))


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names, not paths
    except OSError:
        return []
