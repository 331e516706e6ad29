"""The store: one folder per artifact, named by the key of its inputs, complete as soon as it has its name."""

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from tasks.core.digests import SourceDigests
from tasks.core.environment import environment
from tasks.core.errors import ArtifactDamaged, RemoteDamaged, StepError, StoreError
from tasks.core.files import copy_file, remove_tree, store_errors, sync_file, sync_folder
from tasks.core.locks import file_lock, try_file_lock
from tasks.core.observations import IndexEntry, Observer, append_index, read_index
from tasks.core.report import KEY_IN_FOLDER_NAME, Artifact, FileRecord, Observation, Recipe, Report
from tasks.core.source_names import SourceNames
from tasks.core.sweep import remove_whatever, sweep
from tasks.core.trust import Authority
from tasks.core.verified import Verified, known, link, sha256_once

if TYPE_CHECKING:
    from tasks.core.shared import Shared

REPORT = "report.json"
NEVER_MADE = "never made from these inputs"
_PARTS = 3  # of an artifact's folder: pipeline, step and key
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
    """Why there is no artifact for a recipe; `damaged` is the folder that has to go first.

    `told` where the reason is worth telling: there was an artifact, and something is wrong with it.
    """

    reason: str
    damaged: Path | None = None
    told: bool = False


@dataclass(frozen=True)
class Store:
    """Artifacts under `root`, made from files in the `project` folder.

    `produce` is the only writer. It leaves the artifact whole or nothing, computes it once however many
    processes ask for it at the same time, and waits for none that is dead. With `shared` it is the cache of a
    remote store: what is not here is fetched from there, and what is made here is uploaded. `authority` signs what is
    put in force, and says whose signatures count.
    """

    root: Path
    project: Path
    stop: threading.Event = field(default_factory=threading.Event)
    verify_all: bool = False
    shared: "Shared | None" = None
    authority: Authority = field(default_factory=Authority)

    @property
    def place(self) -> str:
        """What to call the store."""
        return self.shared.place if self.shared else str(self.root)

    @property
    def sources(self) -> SourceDigests:
        """Digests of the user's files."""
        return SourceDigests(self.root / ".sources")

    @property
    def names(self) -> SourceNames:
        """What keys call the files that a pipeline is made from."""
        return SourceNames(self.root, self.project)

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
        if self.shared and artifact.folder in self.shared.reports and not self.folder(artifact).is_dir():
            return self.shared.reports[artifact.folder]
        return read_report(self.folder(artifact))

    def file(self, artifact: Artifact, name: str) -> Path:
        """Path of one file after its sha256 was verified; raise ArtifactDamaged when it is not what was written."""
        self.bring(artifact.folder)
        path = self.folder(artifact) / name
        records = {record.name: record for record in self.report(artifact).files}
        if name not in records:
            raise StoreError(f"{artifact.folder} has no file {name!r}", f"it has {', '.join(sorted(records))}")
        problem = self.verified.problem(path.parent, records[name], thorough=True)
        if problem:
            raise ArtifactDamaged(f"{artifact.folder}: {problem}", artifact.folder)
        return path

    def find(self, recipe: Recipe, *, observing: bool) -> Artifact | Miss:
        """The artifact of a recipe, if it is there, whole and made from what is there now; copies nothing."""
        found = self._here(recipe, observing=observing)
        if self.shared is None or isinstance(found, Artifact):
            return found
        key = self._shared_key(recipe, observing=observing)
        if isinstance(key, Miss):
            return key
        try:
            report = self.shared.look(_folder(recipe, key))
        except RemoteDamaged as error:
            return Miss(f"the remote copy is damaged: {error.message}")
        return found if report is None or report.key != key else report.artifact

    def produce(self, recipe: Recipe, make: Callable[[Path], Made], *, observing: bool = False) -> Produced:
        """Return the artifact of `recipe`, made by `make(folder)` if it is not there yet."""
        with store_errors(self.root):
            found = self._here(recipe, observing=observing)
            if isinstance(found, Artifact) and (self.shared is None or self.shared.holds(found.folder)):
                return Produced(found, cached=True, seconds=0.0)
            with self._alone(recipe):
                found = self._here(recipe, observing=observing)  # another run may have made it while this one waited
                if isinstance(found, Artifact):
                    return Produced(self._share(found), cached=True, seconds=0.0)
                self._discard(found)
                fetched = self._fetch(recipe, observing=observing)
                if isinstance(fetched, Artifact):
                    return Produced(fetched, cached=True, seconds=0.0, rebuilt=_fetched(found))
                found = found if found.told else fetched or found
                made = self._make(recipe, make)
                artifact = self._share(made.artifact)
                return replace(made, artifact=artifact, rebuilt=found.reason if found.told else "")

    def bring(self, folder: str) -> None:
        """See that an artifact is in the cache of a remote store."""
        if self.shared is None or (self.root / folder).is_dir():
            return
        with store_errors(self.root):
            report = self.shared.look(folder)
            if report is not None:
                with self._alone(report.recipe):
                    self.shared.fetch(folder)

    def forget(self, artifact: Artifact) -> None:
        """Have an artifact made again, whatever holds it."""
        self.discard(artifact.folder)
        if self.shared is not None:
            self.shared.disown(artifact.folder)

    def keep_run(self, pipeline: str, run: str, artifacts: tuple[str, ...]) -> None:
        """Have the remote store keep what a run left in its folder, and what it used."""
        if self.shared is not None:
            self.shared.mirror.push_run(pipeline, run)
            self.settle(artifacts)  # afterwards: a `gc` that begins now sees the record, and keeps what it names

    def settle(self, folders: tuple[str, ...]) -> None:
        """Put back what another machine's `gc` took from the remote store while this one used it."""
        if self.shared is None or self.stop.is_set() or not self.shared.generation.moved():
            return
        with store_errors(self.root):
            for folder in folders:
                if (self.root / folder / REPORT).is_file():
                    with self._alone(read_report(self.root / folder).recipe):
                        self.shared.share(folder)

    def link(self, artifact: Artifact, name: str, target: Path) -> None:
        """Give a file of an artifact a second name in a folder that is being made; it is not read again."""
        link(self.file(artifact, name), target)

    def take(self, source: Path, target: Path) -> None:
        """Copy a user's file into a folder that is being made: a link would let the user edit the store.

        If it is provably the file that was hashed for the key, also once it is copied, so is the copy.
        """
        copy_file(source, target, self.stop)
        digest = self.sources.remembered(source)
        if digest is not None:
            known(target, digest)

    def discard(self, folder: str) -> None:
        """Remove an artifact that was found damaged."""
        parts = Path(folder).parts
        if len(parts) != _PARTS or not {"..", "/"}.isdisjoint(parts) or "\0" in folder:  # a worker may say anything
            raise StoreError(f"{folder!r:.99} is no artifact of this store", "report this: it is not removed")
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
        sweep(self.root, pipeline, self.timing)

    @contextlib.contextmanager
    def _alone(self, recipe: Recipe) -> Iterator[None]:
        steps = self.root / recipe.pipeline / recipe.step
        steps.mkdir(parents=True, exist_ok=True)
        with file_lock(steps / f".{recipe.lookup()[:KEY_IN_FOLDER_NAME]}.lock", self.stop):
            yield

    def _here(self, recipe: Recipe, *, observing: bool) -> Artifact | Miss:
        key = self._key(recipe, observing=observing)
        return key if isinstance(key, Miss) else self._load(recipe, key)

    def _key(self, recipe: Recipe, *, observing: bool) -> str | Miss:
        """The key of a recipe, as far as the index here knows what user code reads."""
        if not observing:
            return recipe.lookup()
        observer = Observer(self.project, self.sources)
        reason = NEVER_MADE
        for entry in read_index(self._index(recipe)):
            change = observer.first_change(entry.observed)
            if change is None:
                return entry.key
            reason = change if reason == NEVER_MADE else reason
        return Miss(reason)

    def _shared_key(self, recipe: Recipe, *, observing: bool) -> str | Miss:
        """The key of a recipe, as far as any machine knows."""
        key = self._key(recipe, observing=observing)
        if isinstance(key, Miss) and self.shared is not None:
            self.shared.merge_index(recipe)
            key = self._key(recipe, observing=observing)
        return key

    def _fetch(self, recipe: Recipe, *, observing: bool) -> Artifact | Miss | None:
        """The artifact from the remote; a Miss says what is wrong with its copy, None that it has none."""
        if self.shared is None:
            return None
        key = self._shared_key(recipe, observing=observing)
        if isinstance(key, Miss):
            return None
        here = self._load(recipe, key)  # another machine's index may lead to what is here already
        if isinstance(here, Artifact):
            return self._share(here)
        try:
            report = self.shared.fetch(_folder(recipe, key))
        except RemoteDamaged as error:
            return Miss(f"the remote copy is damaged: {error.message}", told=True)
        return None if report is None else report.artifact

    def _share(self, artifact: Artifact) -> Artifact:
        if self.shared is None or self.shared.holds(artifact.folder):
            return artifact
        return self.shared.share(artifact.folder).artifact

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
            return Miss(error.message, damaged=folder, told=True)
        if (report.pipeline, report.step, report.key) != (recipe.pipeline, recipe.step, key):
            return Miss(f"{folder.name} holds another key", damaged=folder, told=True)
        problem = self.verified.first_problem(folder, report.files)
        if problem:
            return Miss(problem, damaged=folder, told=True)
        return report.artifact

    def _discard(self, miss: Miss) -> None:
        if miss.damaged is not None:
            remove_tree(miss.damaged)

    def _make(self, recipe: Recipe, make: Callable[[Path], Made]) -> Produced:
        steps = self.root / recipe.pipeline / recipe.step
        partial = steps / f".{recipe.lookup()[:KEY_IN_FOLDER_NAME]}.partial"
        remove_whatever(partial)  # left by a run that was killed: its lock was free
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
            remove_whatever(partial)
        return Produced(report.artifact, cached=False, seconds=seconds)

    def _check_sources(self, recipe: Recipe) -> None:
        for name, digest in recipe.sources.items():
            path = self.names.path(name, recipe.pipeline)
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
        final = self.root / report.artifact.folder
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
    except ValueError as error:  # also for a folder's name that none can have
        raise StoreError(f"{REPORT} is not a valid report", "the artifact is made again", str(error)) from error


def _folder(recipe: Recipe, key: str) -> str:
    return f"{recipe.pipeline}/{recipe.step}/{key[:KEY_IN_FOLDER_NAME]}"


def _fetched(miss: Miss) -> str:
    return f"{miss.reason}, fetched again from the remote store" if miss.told else ""


def _record(path: Path) -> FileRecord:
    if not path.is_file():
        raise StepError(f"a step left {path.name!r}, which is not a file", "report this: only plain files are kept")
    sync_file(path)
    return FileRecord(name=path.name, bytes=path.stat().st_size, sha256=sha256_once(path))
