"""What keys call the files that a pipeline is made from: names that are the same on every machine, if they can be."""

from dataclasses import dataclass
from pathlib import Path

CHECKPOINTS = "checkpoints"  # folder of a pipeline's fetched checkpoints, each below its digest
_KEPT = "store:"  # begins the name of a source that lies in the store, wherever that is


@dataclass(frozen=True)
class SourceNames:
    """Names relative to the folder of the YAML, or to a store."""

    root: Path
    project: Path

    def name(self, path: Path, pipeline: str) -> str:
        """Name a file; one that lies in neither is called by its whole path."""
        for base, prefix in ((self.root / pipeline / CHECKPOINTS, f"{_KEPT}{CHECKPOINTS}/"), (self.project, "")):
            if path.is_relative_to(base):
                return f"{prefix}{path.relative_to(base)}"
        return str(path)

    def path(self, name: str, pipeline: str) -> Path:
        """Find the file that was so named."""
        if name.startswith(_KEPT):
            return self.root / pipeline / name.removeprefix(_KEPT)
        return self.project / name
