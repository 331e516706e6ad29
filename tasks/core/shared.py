"""Artifacts that machines share through a remote store; each has a cache of its own, which is an ordinary store."""

import contextlib
import os
import shutil
import threading
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pydantic import ValidationError

from tasks.core.blobs import Blobs
from tasks.core.digests import canonical, sha256_text
from tasks.core.errors import RemoteDamaged
from tasks.core.files import link_or_copy, remove_tree, sync_file, sync_folder
from tasks.core.generation import Generation
from tasks.core.mirror import Mirror
from tasks.core.observations import IndexEntry, append_index, parse_entry, read_index
from tasks.core.remote import Remote
from tasks.core.remote_errors import shown
from tasks.core.report import KEY_IN_FOLDER_NAME, FileRecord, Recipe, Report
from tasks.core.verified import Verified

REPORT = "report.json"
# Beside a report in the cache: this artifact is in that remote store, as it was after that collection.
_MARK = ".shared"
FETCHED = ".fetched"


@dataclass(frozen=True)
class Shared:
    """Copies artifacts between the cache at `root` and the remote store.

    In the remote a report is the commit marker: it is written when all that it names is there, and of two machines
    that made the same artifact the first one's is what both use from then on.
    """

    remote: Remote
    root: Path
    generation: Generation  # when something was last removed from the remote
    stop: threading.Event = field(default_factory=threading.Event)
    reports: dict[str, Report] = field(default_factory=dict)  # of artifacts that were only looked at
    _replaced: set[str] = field(default_factory=set)
    _damaged: set[str] = field(default_factory=set)

    @property
    def place(self) -> str:
        """The URL, as it is told."""
        return shown(self.remote.url)

    @cached_property
    def blobs(self) -> Blobs:
        """The bytes of all artifacts."""
        return Blobs(self.remote, self.stop, self._damaged)

    @cached_property
    def mirror(self) -> Mirror:
        """The small files that are not artifacts."""
        return Mirror(self.remote, self.root)

    def holds(self, folder: str) -> bool:
        """Whether the remote is known to hold an artifact of the cache; asks nobody."""
        try:
            return (self.root / folder / _MARK).read_text(encoding="utf-8") == self._mark()
        except OSError:
            return False

    def disown(self, folder: str) -> None:
        """The remote's copy of an artifact no longer counts: the next one to be shared replaces it."""
        self._replaced.add(folder)

    def look(self, folder: str) -> Report | None:
        """The report of an artifact in the remote, without its files; raise RemoteDamaged for what is none."""
        content = None if folder in self._replaced else self.remote.read(f"{folder}/{REPORT}")
        if content is None:
            return None
        report = self._parsed(folder, content)
        self.reports[folder] = report
        return report

    def fetch(self, folder: str) -> Report | None:
        """Bring an artifact into the cache, every byte of it verified; None where the remote has none.

        Raises RemoteDamaged where its copy is not whole: what is shared next under that name replaces it.
        """
        content = None if folder in self._replaced else self.remote.read(f"{folder}/{REPORT}")
        if content is None:
            return None
        try:
            report = self._parsed(folder, content)
            self._bring(folder, report, content)
        except RemoteDamaged:
            self.disown(folder)
            shutil.rmtree(self._hidden(folder), ignore_errors=True)
            raise
        return report

    def share(self, folder: str) -> Report:
        """Upload an artifact of the cache; returns the report that counts, which is another's if that came first."""
        self.generation.ensure()
        path = self.root / folder
        content = (path / REPORT).read_bytes()
        report = self._parsed(folder, content)
        theirs = None if folder in self._replaced else self.remote.read(f"{folder}/{REPORT}")
        if theirs is None or theirs == content:
            found = [record for record in report.files if not self.blobs.put(path / record.name, record)]
            if theirs is None:
                theirs = self._commit(folder, content)
                for record in found:  # what lay there unused may have been collected before the marker named it
                    self.blobs.put(path / record.name, record)
        if theirs != content:
            with contextlib.suppress(RemoteDamaged):
                return self._adopt(folder, theirs)
            self.disown(folder)
            return self.share(folder)
        self._index(report)
        (path / _MARK).write_text(self._mark(), encoding="utf-8")
        return report

    def merge_index(self, recipe: Recipe) -> None:
        """Learn what other machines observed: the files that user code read, and the key that they led to."""
        lookup = recipe.lookup()[:KEY_IN_FOLDER_NAME]
        local = self.root / recipe.pipeline / recipe.step / "index" / f"{lookup}.jsonl"
        folder = f"{recipe.pipeline}/{recipe.step}/index/{lookup}"
        known = {_entry_name(entry) for entry in read_index(local)}
        new = [name for name in self.remote.names(folder) if name not in known and name.endswith(".json")]
        for content in self.remote.read_many([f"{folder}/{name}" for name in new]).values():
            entry = parse_entry(content)
            if entry is not None:
                append_index(local, entry)

    def _commit(self, folder: str, content: bytes) -> bytes:
        """Write the marker; returns what is there then."""
        name = f"{folder}/{REPORT}"
        if folder in self._replaced:
            self.remote.write(name, content)
            self._replaced.discard(folder)
            return content
        return content if self.remote.create(name, content) else self.remote.read(name) or content

    def _adopt(self, folder: str, content: bytes) -> Report:
        """Take what another machine shared first, so that all go on from the same bytes."""
        report = self._parsed(folder, content)
        self._bring(folder, report, content)
        return report

    def _index(self, report: Report) -> None:
        if report.observed is None:
            return
        entry = IndexEntry(key=report.key, observed=report.observed)
        lookup = report.recipe.lookup()[:KEY_IN_FOLDER_NAME]
        name = f"{report.pipeline}/{report.step}/index/{lookup}/{_entry_name(entry)}"
        self.remote.write(name, canonical(entry.model_dump(mode="json")).encode())

    def _parsed(self, folder: str, content: bytes) -> Report:
        try:
            report = Report.model_validate_json(content)
        except ValidationError as error:
            raise RemoteDamaged(f"{REPORT} is not a valid report", "it is made again", str(error)) from error
        if f"{report.pipeline}/{report.step}/{report.key[:KEY_IN_FOLDER_NAME]}" != folder:
            raise RemoteDamaged(f"{REPORT} is that of another artifact", "it is made again")
        bad = next((record.name for record in report.files if not _is_plain(record.name)), None)
        if bad is not None:
            raise RemoteDamaged(f"{REPORT} names a file {bad!r}", "it is made again")
        return report

    def _bring(self, folder: str, report: Report, content: bytes) -> None:
        """Fill a hidden folder, which an interruption leaves to be gone on from, then give it its name."""
        final = self.root / folder
        hidden = self._hidden(folder)
        hidden.mkdir(parents=True, exist_ok=True)
        verified = Verified(self.root, hash_all=False)
        have = self._files_of(report.recipe.lineage, verified)
        for record in report.files:
            self._file(record, hidden / record.name, have.get(record.sha256))
        for stray in hidden.iterdir():
            if stray.name not in {record.name for record in report.files}:
                stray.unlink()
        (hidden / REPORT).write_bytes(content)
        (hidden / _MARK).write_text(self._mark(), encoding="utf-8")
        for record in report.files:
            sync_file(hidden / record.name)
        sync_file(hidden / REPORT)
        sync_folder(hidden)
        verified.remember(hidden, report.files)
        remove_tree(final)
        hidden.rename(final)
        sync_folder(final.parent)

    def _hidden(self, folder: str) -> Path:
        final = self.root / folder
        return final.parent / f".{final.name}{FETCHED}"

    def _file(self, record: FileRecord, path: Path, have: Path | None) -> None:
        if have is None:
            self.blobs.fetch(record, path)
            return
        path.unlink(missing_ok=True)
        link_or_copy(have, path)

    def _files_of(self, folders: tuple[str, ...], verified: Verified) -> dict[str, Path]:
        """Intact files of artifacts in the cache, by digest: weights that one artifact passes on to the next."""
        found: dict[str, Path] = {}
        for folder in folders:
            with contextlib.suppress(OSError, ValidationError):
                report = Report.model_validate_json((self.root / folder / REPORT).read_bytes())
                if verified.first_problem(self.root / folder, report.files) is None:
                    found |= {record.sha256: self.root / folder / record.name for record in report.files}
        return found

    def _mark(self) -> str:
        return f"{self.remote.digest} {self.generation.known.generation}\n"


def open_shared(url: str, cache: Path) -> Shared:
    """Open a remote store with a folder of its own in the cache; raise StoreError where it cannot be reached."""
    remote = Remote(url)
    shared = Shared(remote, cache / remote.digest, Generation(remote))
    shared.generation.open()
    return shared


def drop_unfinished(pipeline: Path) -> None:
    """Remove downloads that were interrupted and not gone on with."""
    for path in pipeline.glob(f"*/.*{FETCHED}"):
        shutil.rmtree(path, ignore_errors=True)


def _entry_name(entry: IndexEntry) -> str:
    digest = sha256_text(canonical(entry.model_dump(mode="json")))
    return f"{entry.key[:KEY_IN_FOLDER_NAME]}-{digest[:KEY_IN_FOLDER_NAME]}.json"


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file right in its folder: a report from elsewhere is not to write anywhere else."""
    return name == os.path.basename(name) and not name.startswith(".") and name not in ("", REPORT)  # noqa: PTH119
