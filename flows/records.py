"""Read back the records of earlier runs."""

from pathlib import Path

from pydantic import ValidationError

from tasks.core.files import store_errors
from tasks.core.outcome import RunRecord
from tasks.core.store import Store


def run_folders(root: Path, pipeline: str) -> list[Path]:
    """Folders of a pipeline's runs, newest first: their names begin with the time."""
    runs = root / pipeline / "runs"
    return sorted((path for path in runs.glob("[!.]*") if (path / "run.json").is_file()), reverse=True)


def read_record(folder: Path) -> RunRecord | None:
    """The record of one run; None for one that this version cannot read."""
    try:
        return RunRecord.model_validate_json((folder / "run.json").read_bytes())
    except (OSError, ValidationError):
        return None


def last_record(store: Store, pipeline: str) -> RunRecord | None:
    """The newest record that can be read, of any machine's."""
    pull_newest(store, pipeline, 3)  # the newest may be one that is being written
    return next((record for folder in run_folders(store.root, pipeline) if (record := read_record(folder))), None)


def pull_newest(store: Store, pipeline: str, count: int) -> None:
    """Fetch the newest records of other machines, where the store has any."""
    if store.shared is not None:
        with store_errors(store.root):
            mirror = store.shared.mirror
            mirror.pull_runs(pipeline, mirror.runs(pipeline)[:count])
