"""The files below an fsspec URL: few verbs, whole files or none, and errors that say what to do."""

import contextlib
import functools
import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, TypeVar, cast

from tasks.core.errors import StoreError, TrtflowError
from tasks.core.remote_errors import code_of, shown, translated

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

T = TypeVar("T")
# What a put leaves under a name is whole or absent. Elsewhere a file gets its name when it is whole, by a rename.
_WHOLE_PUTS = frozenset({"s3", "s3a", "gs", "gcs", "az", "abfs", "memory"})
# A put can be told to fail where the name is taken, and the server decides who was first.
_EXCLUSIVE_PUTS = frozenset({"s3", "s3a", "gs", "gcs", "memory"})
# s3fs and botocore retry for minutes where nobody answers. A run should say so while somebody looks on.
_S3_PATIENCE = {"connect_timeout": 10, "read_timeout": 60, "retries": {"max_attempts": 2, "mode": "standard"}}
PARTIAL = ".partial"


@dataclass(frozen=True)
class RemoteFile:
    """One file of a listing; `name` is relative to the URL, `written` None where the driver does not tell."""

    name: str
    bytes: int
    written: datetime | None


class Remote:
    """The files below `url`. Safe to use from several threads; nothing is imported before it is first used."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/") if not url.endswith("://") else url
        self.protocol = url.partition("://")[0]

    @property
    def digest(self) -> str:
        """Names the URL in the names of files, and in marks."""
        return hashlib.sha256(self.url.encode()).hexdigest()[:20]

    def read(self, name: str) -> bytes | None:
        """The content of a file, None where there is none."""
        with self._told(f"reading {name}"):
            try:
                return cast("bytes", self._fs.cat_file(self._path(name)))
            except FileNotFoundError as error:
                if code_of(error) == "NoSuchBucket":
                    raise
                return None

    def read_part(self, name: str, start: int, end: int) -> bytes:
        """Bytes `start` to `end` (exclusive) of a file that is there."""
        with self._told(f"reading {name}"):
            return cast("bytes", self._fs.cat_file(self._path(name), start=start, end=end))

    def read_many(self, names: Sequence[str]) -> dict[str, bytes]:
        """Contents of those files that are there, read side by side where the driver can."""
        if not names:
            return {}
        paths = {self._path(name): name for name in names}
        with self._told(f"reading {len(names)} files"):
            found = self._fs.cat(list(paths), on_error="return")
            for error in found.values():
                if isinstance(error, Exception) and not isinstance(error, FileNotFoundError):
                    raise error
        return {paths[path]: content for path, content in found.items() if isinstance(content, bytes)}

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where there is none."""
        with self._told(f"looking at {name}"):
            try:
                return int(self._fs.info(self._path(name))["size"])
            except FileNotFoundError as error:
                if code_of(error) == "NoSuchBucket":
                    raise
                return None

    def write(self, name: str, content: bytes) -> None:
        """Write a file, or replace it."""
        with self._told(f"writing {name}"):
            self._put(name, lambda path: self._fs.pipe_file(path, content))

    def upload(self, source: Path, name: str) -> None:
        """Write a file from a local one, or replace it."""
        # s3fs holds each part of 50 MB in memory, ten at a time if it may.
        settings = {"max_concurrency": 3} if self.protocol in ("s3", "s3a") else {}
        with self._told(f"writing {name}"):
            self._put(name, lambda path: self._fs.put_file(str(source), path, **settings))

    def create(self, name: str, content: bytes) -> bool:
        """Write a file unless there is one; of several that try, one succeeds. Returns whether this one did."""
        with self._told(f"writing {name}"):
            path = self._path(name)
            if self.protocol in _EXCLUSIVE_PUTS:
                return self._create(path, content)
            if self._fs.exists(path):
                return False
            return self._link(name, content) if self.protocol in ("file", "local") else self._write_new(name, content)

    def names(self, folder: str) -> list[str]:
        """Names of the files and folders right in a folder; none where it is not there."""
        with self._told(f"listing {folder}"):
            try:
                found = self._fs.ls(self._path(folder), detail=False)
            except FileNotFoundError as error:
                if code_of(error) == "NoSuchBucket":
                    raise
                return []
        return sorted(PurePosixPath(path).name for path in found)

    def files(self, folder: str = "") -> list[RemoteFile]:
        """All files below a folder; none where it is not there."""
        with self._told(f"listing {folder or 'it'}"):
            found = self._fs.find(self._path(folder) if folder else self._root or "/", detail=True)
        base = f"{self._root}/"
        return [
            RemoteFile(path.removeprefix(base), int(facts["size"]), _written(facts)) for path, facts in found.items()
        ]

    def remove(self, names: Sequence[str]) -> None:
        """Remove files; one that is gone already is no error."""
        if not names:
            return
        with self._told(f"removing {len(names)} files"):
            if self.protocol in ("s3", "s3a", "gs", "gcs"):
                self._fs.rm([self._path(name) for name in names])
                return
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    self._fs.rm_file(self._path(name))

    @functools.cached_property
    def _opened(self) -> "tuple[AbstractFileSystem, str]":
        import fsspec.config
        from fsspec.core import url_to_fs

        # Listings are read again each time: other machines write here. Credentials are read again for each store.
        settings: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        if self.protocol in ("s3", "s3a") and "config_kwargs" not in fsspec.config.conf.get(self.protocol, {}):
            settings["config_kwargs"] = _S3_PATIENCE
        fs, root = url_to_fs(self.url, **settings)
        return fs, root.rstrip("/")

    @property
    def _fs(self) -> "AbstractFileSystem":
        return self._opened[0]

    @property
    def _root(self) -> str:
        return self._opened[1]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextlib.contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        try:
            yield
        except TrtflowError:
            raise
        except Exception as error:  # a driver raises what its libraries raise: there is no common class
            raise translated(error, self.url, doing) from error

    def _put(self, name: str, write: Callable[[str], object]) -> None:
        if self.protocol in _WHOLE_PUTS:
            write(self._path(name))
            return
        hidden = self._hidden(name)
        try:
            write(hidden)
            self._fs.mv(hidden, self._path(name))
        except BaseException:
            with contextlib.suppress(OSError):
                self._fs.rm_file(hidden)
            raise

    def _hidden(self, name: str) -> str:
        target = PurePosixPath(self._path(name))
        self._fs.makedirs(str(target.parent), exist_ok=True)
        return str(target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")

    def _create(self, path: str, content: bytes) -> bool:
        try:
            self._fs.pipe_file(path, content, mode="create")
        except FileExistsError:
            return False
        except OSError as error:
            # Servers that are not Amazon's word it in their own way; one that has no such thing says that.
            match code_of(error):
                case "PreconditionFailed" | "412" | "ConditionalRequestConflict" | "409":
                    return False
                case "NotImplemented" | "501":
                    return self._write_new(path.removeprefix(f"{self._root}/"), content)
                case _:
                    raise
        return True

    def _write_new(self, name: str, content: bytes) -> bool:
        if self._fs.exists(self._path(name)):
            return False
        self._put(name, lambda path: self._fs.pipe_file(path, content))
        return True

    def _link(self, name: str, content: bytes) -> bool:
        hidden = self._hidden(name)
        self._fs.pipe_file(hidden, content)
        try:
            self._fs.link(hidden, self._path(name))
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            return self._write_new(name, content)
        finally:
            self._fs.rm_file(hidden)
        return True


def check_url(url: str, what: str = "store") -> None:
    """Raise StoreError for a URL that no driver here can open; `what` it is the URL of."""
    from fsspec.registry import get_filesystem_class

    protocol, _, rest = url.partition("://")
    if "::" in url:
        raise StoreError(f"{shown(url)} is a chain of URLs", "name the store itself: trtflow keeps a cache of its own")
    if not rest.strip("/") and protocol != "memory":
        raise StoreError(f"{shown(url)} names no place", f"write {protocol}://NAME/FOLDER")
    if protocol == "file" and not rest.startswith("/"):
        raise StoreError(f"{shown(url)} names a host", "write file:///FOLDER, with three slashes")
    try:
        get_filesystem_class(protocol)
    except ValueError as error:
        raise StoreError(f"there is no protocol {protocol!r}", _nearest(protocol)) from error
    except ImportError as error:
        raise StoreError(
            f"a {what} at {protocol}:// needs a driver that is not installed", _driver(protocol)
        ) from error


def _nearest(protocol: str) -> str:
    from tasks.core.config_fields import suggest

    return suggest(protocol, ["file", "gs", "memory", "s3"])


def _driver(protocol: str) -> str:
    from fsspec.registry import known_implementations

    if protocol in ("s3", "s3a"):
        return "install it: pip install 'trtflow[s3]', or pip install s3fs"
    return str(known_implementations[protocol].get("err", f"install fsspec's driver for {protocol}"))


def _written(facts: dict[str, Any]) -> datetime | None:
    """When a file was written: each driver has its own name for it."""
    for key in ("LastModified", "last_modified", "mtime", "updated", "created"):
        match facts.get(key):
            case datetime() as when:
                return when if when.tzinfo else when.replace(tzinfo=UTC)
            case int() | float() as seconds:
                return datetime.fromtimestamp(seconds, UTC)
            case str() as text:
                with contextlib.suppress(ValueError):
                    return datetime.fromisoformat(text)
    return None
