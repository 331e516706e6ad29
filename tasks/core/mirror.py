"""Small files that a remote store and its cache both have: promotions, records of runs."""

from dataclasses import dataclass
from pathlib import Path

from tasks.core.files import write_atomically
from tasks.core.remote import Remote

_LARGEST = 64 * 2**20


@dataclass(frozen=True)
class Mirror:
    """The same relative names on both sides."""

    remote: Remote
    root: Path

    def pull(self, folder: str) -> None:
        """Fetch what the cache does not have of a folder of files that are never changed."""
        have = {path.name for path in (self.root / folder).glob("[!.]*.json")}
        new = [name for name in self.remote.names(folder) if _is_record(name) and name not in have]
        self._keep(self.remote.read_many([f"{folder}/{name}" for name in new]))

    def runs(self, pipeline: str) -> list[str]:
        """Ids of the runs that the remote knows of, newest first."""
        return sorted((name for name in self.remote.names(f"{pipeline}/runs") if name[:1] != "."), reverse=True)

    def pull_runs(self, pipeline: str, ids: list[str]) -> None:
        """Fetch the records of runs."""
        names = [f"{pipeline}/runs/{name}/run.json" for name in ids]
        self._keep(self.remote.read_many([name for name in names if not (self.root / name).is_file()]))

    def push_text(self, name: str, content: str) -> None:
        """Write a file there, unless it has that content."""
        if self.remote.read(name) != content.encode():
            self.remote.write(name, content.encode())

    def push_new(self, name: str, content: str) -> None:
        """Write a file there that is new."""
        self.remote.write(name, content.encode())

    def push_run(self, pipeline: str, run: str) -> None:
        """Copy what a run left in its folder, its record last, and the pipeline's page."""
        folder = self.root / pipeline / "runs" / run
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name[:1] != "."]
        page = self.root / pipeline / "index.html"
        paths += [page] if page.is_file() else []
        for path in sorted(paths, key=lambda path: path.name == "run.json"):
            if path.stat().st_size <= _LARGEST:
                self.remote.upload(path, str(path.relative_to(self.root)))

    def _keep(self, found: dict[str, bytes]) -> None:
        for name, content in found.items():
            write_atomically(self.root / name, content.decode(errors="replace"))


def _is_record(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")
