"""The store: one folder per artifact, named by the key of its inputs, complete as soon as it has its name."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue, ValidationError

from tasks.core.digests import SourceDigests, sha256_file
from tasks.core.environment import environment
from tasks.core.errors import ArtifactDamaged, StepError, StoreError
from tasks.core.files import remove_abandoned, remove_tree, store_errors, sync_file, sync_folder
from tasks.core.locks import file_lock, try_file_lock
from tasks.core.observations import IndexEntry, Observer, append_index, read_index
from tasks.core.report import KEY_IN_FOLDER_NAME, Artifact, FileRecord, Observation, Recipe, Report
from tasks.core.verified import Verified

REPORT = "report.json"
NEVER_MADE = "never made from these inputs"
NOT_STEPS = frozenset({"runs", "promotions", "index"})


@dataclass(frozen=True)
class Made:
    """What `make` returns: the step's metrics, and what user code was seen to read (None where there is none)."""

    metrics: Mapping[str, JsonValue]
    observed: tuple[Observation, ...] | None = None


@dataclass(frozen=True)
class Produced:
    """An artifact, whether this call made it, and what was wrong with the one that it replaces."""

    artifact: Artifact
    cached: bool
    seconds: float
    rebuilt: str = ""


@dataclass(frozen=True)
class Miss:
    """Why there is no artifact for a recipe; `damaged` is the folder that has to go first."""

    reason: str
    damaged: Path | None = None


@dataclass(frozen=True)
class Store:
    """Artifacts under `root`, made from files in the `project` folder.

    `produce` is the only writer. It leaves the artifact whole or nothing, computes it once however many
    processes ask for it at the same time, and waits for none that is dead.
    """

    root: Path
    project: Path
    stop: threading.Event = field(default_factory=threading.Event)
    verify_all: bool = False

    @property
    def sources(self) -> SourceDigests:
        """Digests of the user's files."""
        return SourceDigests(self.root / ".sources")

    @property
    def timing(self) -> Path:
        """Folder of what builders timed: shared by all pipelines, part of no key, left alone by `gc`."""
        return self.root / ".timing"

    @property
    def verified(self) -> Verified:
        """Checks of artifacts' files against their reports."""
        return Verified(self.root, hash_all=self.verify_all)

    def folder(self, artifact: Artifact) -> Path:
        """Absolute folder of an artifact."""
        return self.root / artifact.folder

    def report(self, artifact: Artifact) -> Report:
        """The artifact's report."""
        return read_report(self.folder(artifact))

    def file(self, artifact: Artifact, name: str) -> Path:
        """Path of one file after its sha256 was verified; raise ArtifactDamaged when it is not what was written."""
        path = self.folder(artifact) / name
        records = {record.name: record for record in self.report(artifact).files}
        if name not in records:
            raise StoreError(f"{artifact.folder} has no file {name!r}", f"it has {', '.join(sorted(records))}")
        problem = self.verified.problem(path.parent, records[name], thorough=True)
        if problem:
            raise ArtifactDamaged(f"{artifact.folder}: {problem}", artifact.folder)
        return path

    def find(self, recipe: Recipe, *, observing: bool) -> Artifact | Miss:
        """The artifact of a recipe, if it is there, whole and made from what is there now."""
        if not observing:
            return self._load(recipe, recipe.lookup())
        entries = read_index(self._index(recipe))
        observer = Observer(self.project, self.sources)
        reason = NEVER_MADE
        for entry in entries:
            change = observer.first_change(entry.observed)
            if change is None:
                return self._load(recipe, entry.key)
            reason = change if reason == NEVER_MADE else reason
        return Miss(reason)

    def produce(self, recipe: Recipe, make: Callable[[Path], Made], *, observing: bool = False) -> Produced:
        """Return the artifact of `recipe`, made by `make(folder)` if it is not there yet."""
        with store_errors(self.root):
            found = self.find(recipe, observing=observing)
            if isinstance(found, Artifact):
                return Produced(found, cached=True, seconds=0.0)
            steps = self.root / recipe.pipeline / recipe.step
            steps.mkdir(parents=True, exist_ok=True)
            with file_lock(steps / f".{recipe.lookup()[:KEY_IN_FOLDER_NAME]}.lock", self.stop):
                found = self.find(recipe, observing=observing)  # another run may have made it while this one waited
                if isinstance(found, Artifact):
                    return Produced(found, cached=True, seconds=0.0)
                self._discard(found)
                made = self._make(recipe, make)
                return replace(made, rebuilt=found.reason) if found.damaged else made

    def discard(self, folder: str) -> None:
        """Remove an artifact that was found damaged."""
        with store_errors(self.root):
            remove_tree(self.root / folder)

    @contextlib.contextmanager
    def in_use(self, pipeline: str) -> Iterator[None]:
        """While this is held, nobody removes an artifact of the pipeline that a run may have found already."""
        path = self._use_lock(pipeline)
        with contextlib.ExitStack() as stack:
            with store_errors(self.root):
                path.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(file_lock(path, self.stop, "shared"))
            yield

    @contextlib.contextmanager
    def unused(self, pipeline: str) -> Iterator[bool]:
        """Whether no run is at work on the pipeline; where that is so, one that starts now waits until this is left."""
        with store_errors(self.root):
            release = try_file_lock(self._use_lock(pipeline))
        try:
            yield release is not None
        finally:
            if release is not None:
                release()

    def sweep(self, pipeline: str) -> None:
        """Remove what killed runs left of a pipeline: hidden folders and files whose lock nobody holds."""
        for folder in (self.root / ".sources", self.timing, self.root / pipeline, *_folders(self.root / pipeline)):
            for path in _hidden(folder):
                if path.suffix == ".partial" and path.is_file():
                    remove_abandoned(path)
                else:
                    _sweep_locked(path)

    def _use_lock(self, pipeline: str) -> Path:
        return self.root / pipeline / ".in-use.lock"

    def _index(self, recipe: Recipe) -> Path:
        return self.root / recipe.pipeline / recipe.step / "index" / f"{recipe.lookup()[:KEY_IN_FOLDER_NAME]}.jsonl"

    def _load(self, recipe: Recipe, key: str) -> Artifact | Miss:
        """Load an artifact by its key: a cheap stat of every file against what was verified before."""
        folder = self.root / recipe.pipeline / recipe.step / key[:KEY_IN_FOLDER_NAME]
        if not folder.is_dir():
            return Miss(NEVER_MADE)
        try:
            report = read_report(folder)
        except StoreError as error:
            return Miss(error.message, damaged=folder)
        if report.key != key:
            return Miss(f"{folder.name} holds another key", damaged=folder)
        problem = self.verified.first_problem(folder, report.files)
        if problem:
            return Miss(problem, damaged=folder)
        return artifact_of(report)

    def _discard(self, miss: Miss) -> None:
        if miss.damaged is not None:
            remove_tree(miss.damaged)

    def _make(self, recipe: Recipe, make: Callable[[Path], Made]) -> Produced:
        steps = self.root / recipe.pipeline / recipe.step
        partial = steps / f".{recipe.lookup()[:KEY_IN_FOLDER_NAME]}.partial"
        _remove(partial)  # left by a run that was killed: its lock was free
        partial.mkdir()
        started = time.monotonic()
        started_at = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            made = make(partial)
            self._check_sources(recipe)
            seconds = round(time.monotonic() - started, 3)
            report = self._write_report(partial, recipe, made, (started_at, seconds))
            self._publish(partial, recipe, report)
        finally:
            _remove(partial)
        return Produced(artifact_of(report), cached=False, seconds=seconds)

    def _check_sources(self, recipe: Recipe) -> None:
        for name, digest in recipe.sources.items():
            path = self.project / name
            if not path.is_file() or self.sources.sha256(path) != digest:
                raise StepError(f"{name} changed while {recipe.step} read it", "run again once nothing writes to it")

    def _write_report(self, folder: Path, recipe: Recipe, made: Made, timing: tuple[str, float]) -> Report:
        shutil.rmtree(folder / "scratch", ignore_errors=True)
        names = sorted(path.name for path in folder.iterdir())
        files = tuple(_record(folder / name) for name in names)
        report = Report(
            pipeline=recipe.pipeline,
            step=recipe.step,
            subject=recipe.subject,
            key=recipe.key(made.observed),
            recipe=recipe,
            observed=made.observed,
            environment=environment(),
            started=timing[0],
            seconds=timing[1],
            files=files,
            metrics=dict(made.metrics),
        )
        (folder / REPORT).write_text(report.model_dump_json(indent=1) + "\n", encoding="utf-8")
        sync_file(folder / REPORT)
        self.verified.remember(folder, files)
        return report

    def _publish(self, partial: Path, recipe: Recipe, report: Report) -> None:
        """Tell the index, then give the folder its final name: what has its name is never made twice."""
        final = self.root / artifact_of(report).folder
        sync_folder(partial)
        if report.observed is not None:
            append_index(self._index(recipe), IndexEntry(key=report.key, observed=report.observed))
        if final.exists():  # the same observations were made before, but their index entry is gone
            remove_tree(final)
        partial.rename(final)
        sync_folder(final.parent)


def read_report(folder: Path) -> Report:
    """Read a folder's report; raise StoreError when it is missing or is not one."""
    try:
        return Report.model_validate_json((folder / REPORT).read_bytes())
    except OSError as error:
        raise StoreError(f"{REPORT} cannot be read: {error.strerror}", "the artifact is made again") from error
    except ValidationError as error:
        raise StoreError(f"{REPORT} is not a valid report", "the artifact is made again", str(error)) from error


def artifact_of(report: Report) -> Artifact:
    """The value that stands for a reported artifact."""
    names = tuple(record.name for record in report.files)
    return Artifact(pipeline=report.pipeline, step=report.step, key=report.key, files=names)


def _record(path: Path) -> FileRecord:
    if not path.is_file():
        raise StepError(f"a step left {path.name!r}, which is not a file", "report this: only plain files are kept")
    sync_file(path)
    return FileRecord(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))


def _folders(pipeline: Path) -> list[Path]:
    """The folders in which a pipeline's files are written: steps, runs, promotions, indexes and artifacts."""
    steps = [path for path in pipeline.glob("*/") if path.is_dir()]
    return [*steps, *(path for step in steps for path in step.glob("*/") if not path.name.startswith("."))]


def _hidden(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - twice as fast as iterdir, on every run over every artifact
    except OSError:
        return []
    return [folder / name for name in names if name.startswith(".") and name.endswith((".partial", ".lock"))]


def _sweep_locked(path: Path) -> None:
    """Remove an unfinished folder, and its lock, unless its maker lives."""
    release = try_file_lock(path.with_suffix(".lock"))
    if release is not None:
        _remove(path.with_suffix(".partial"))
        release()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
