"""What a remote store holds, from one listing of it and the reports that matter."""

import contextlib
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from pydantic import ValidationError

from tasks.core.blobs import blob_name
from tasks.core.outcome import RunRecord
from tasks.core.promotions import Promotions
from tasks.core.remote import PARTIAL, Remote, RemoteFile
from tasks.core.report import Report
from tasks.core.store import NOT_STEPS

# What was written less than this ago may belong to an upload that is not finished.
GRACE = timedelta(days=1)
_BLOB = re.compile(r"blobs/[0-9a-f]{2}/[0-9a-f]{64}")
_REPORT = re.compile(r"([^/]+)/([^/]+)/[^/]+/report\.json")
_RUN = re.compile(r"([^/]+)/runs/([^/]+)/.+")
_INDEX = re.compile(r"([^/]+/[^/]+)/index/[^/]+/([^/-]+)-[^/]+\.json")


@dataclass
class RemoteContents:
    """A listing of the whole store, and those of its reports that were read."""

    remote: Remote
    grace: timedelta = GRACE
    files: dict[str, RemoteFile] = field(default_factory=dict)
    reports: dict[str, Report | None] = field(default_factory=dict)
    _below: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = {found.name: found for found in self.remote.files()}
        for name in self.files:
            parts = name.split("/")
            for depth in range(2, min(len(parts), 4)):
                self._below.setdefault("/".join(parts[:depth]), []).append(name)

    def folders(self, pipeline: str) -> list[str]:
        """Folders of a pipeline's artifacts."""
        return [folder for folder in self._all() if folder.partition("/")[0] == pipeline]

    def read(self, folders: Iterable[str]) -> dict[str, Report]:
        """Reports of artifacts, but for those that are gone or damaged."""
        wanted = list(folders)
        new = [folder for folder in wanted if folder not in self.reports]
        found = self.remote.read_many(
            [f"{folder}/report.json" for folder in new if f"{folder}/report.json" in self.files]
        )
        for folder in new:
            self.reports[folder] = _report(found.get(f"{folder}/report.json"))
        return {folder: report for folder in wanted if (report := self.reports[folder])}

    def unused_blobs(self, without: frozenset[str]) -> list[str]:
        """Blobs that no report names but those of artifacts that go, and that no upload can be about to name."""
        kept = self.read(folder for folder in self._all() if folder not in without)
        named = {blob_name(record.sha256) for report in kept.values() for record in report.files}
        return [name for name in self.files if _BLOB.fullmatch(name) and name not in named and self.is_old(name)]

    def unreadable(self, without: frozenset[str]) -> list[str]:
        """Artifacts to be kept whose reports cannot be read, so that nobody knows which blobs they need."""
        kept = [folder for folder in self._all() if folder not in without]
        return [folder for folder in kept if folder not in self.read(kept)]

    def entries(self, gone: frozenset[str]) -> list[str]:
        """Entries of indexes that lead to artifacts that go or are not there."""
        there = {folder for folder in self._all() if folder not in gone}
        found = ((name, _INDEX.fullmatch(name)) for name in self.files)
        return [name for name, match in found if match and f"{match[1]}/{match[2]}" not in there and self.is_old(name)]

    def abandoned(self) -> list[str]:
        """Files that were never finished."""
        return [name for name in self.files if name.endswith(PARTIAL) and self.is_old(name)]

    def below(self, folder: str) -> list[str]:
        """Files of a folder, as deep as those of an artifact or of a run."""
        return self._below.get(folder, [])

    def is_old(self, name: str) -> bool:
        """Whether a file was written before the time of grace."""
        written = self.files[name].written
        return written is not None and datetime.now(UTC) - written > self.grace

    def _all(self) -> list[str]:
        found = (_REPORT.fullmatch(name) for name in self.files)
        return [match[0].removesuffix("/report.json") for match in found if match and match[2] not in NOT_STEPS]


class RemoteInventory:
    """The part of the listing that is about one pipeline."""

    def __init__(self, contents: RemoteContents, promotions: Promotions) -> None:
        self._all = contents
        self._promotions = promotions
        self._pipeline = promotions.pipeline
        self._records: dict[str, RunRecord | None] = {}

    def runs(self) -> list[str]:
        """Ids of all runs, newest first."""
        found = (_RUN.fullmatch(name) for name in self._all.files)
        return sorted({match[2] for match in found if match and match[1] == self._pipeline}, reverse=True)

    def unfinished(self) -> set[str]:
        """Those whose record was never uploaded, long ago."""
        return {run for run in self.runs() if self._name(run) not in self._all.files and self._is_old(run)}

    def record(self, run: str) -> RunRecord | None:
        """The record of a run; None for one that this version cannot read."""
        if run not in self._records:
            self._records[run] = None
            content = self._all.remote.read(self._name(run))
            with contextlib.suppress(ValidationError):
                self._records[run] = RunRecord.model_validate_json(content) if content is not None else None
        return self._records[run]

    def promoted(self) -> list[str]:
        """Folders of the artifacts that were ever put in force."""
        return [record.artifact for record in self._promotions.records() if record.artifact]

    def lineage(self, folders: Iterable[str]) -> dict[str, tuple[str, ...]]:
        """What each of the artifacts was made from."""
        return {folder: report.recipe.lineage for folder, report in self._all.read(folders).items()}

    def artifacts(self) -> list[str]:
        """Folders of all artifacts."""
        return sorted(self._all.folders(self._pipeline))

    def contents(self, folder: str) -> Mapping[Hashable, int]:
        """Bytes of each file in a folder and of each blob that its report names."""
        report = self._all.read([folder]).get(folder) if f"{folder}/report.json" in self._all.files else None
        blobs: dict[Hashable, int] = {record.sha256: record.bytes for record in report.files} if report else {}
        return blobs | {name: self._all.files[name].bytes for name in self._all.below(folder)}

    def _name(self, run: str) -> str:
        return f"{self._pipeline}/runs/{run}/run.json"

    def _is_old(self, run: str) -> bool:
        return all(self._all.is_old(name) for name in self._all.below(f"{self._pipeline}/runs/{run}"))


def _report(content: bytes | None) -> Report | None:
    try:
        return None if content is None else Report.model_validate_json(content)
    except ValidationError:
        return None
