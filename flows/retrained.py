"""The checkpoint that an event or a command names: fetched once, kept by its digest, put in place of the YAML's own.

A run works on the copy. Whatever becomes of the file at the named place meanwhile, it used the bytes that it says.
"""

import contextlib
import errno
import hashlib
import mmap
import os
import stat
import threading
import uuid
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

from flows.events import checked_sha256, is_url
from flows.roots import Roots, check_url, local_path
from tasks.core.config import OnnxModel, PipelineConfig
from tasks.core.digests import SourceDigests, canonical, sha256_text
from tasks.core.errors import ConfigError, StepError, StoreError
from tasks.core.files import link_or_copy, remove_tree, store_errors, sync_folder
from tasks.core.locks import file_lock
from tasks.core.outcome import CheckpointRecord
from tasks.core.remote import check_url as check_driver
from tasks.core.remote_errors import told_url, without_queries
from tasks.core.source_names import CHECKPOINTS
from tasks.core.store import Store
from tasks.core.sweep import remove_whatever

_CHUNK = 8 << 20
_LONGEST_SUFFIX = 16
_FILE = "checkpoint"
_EXTERNAL = b"location"  # a key that every tensor has whose bytes lie in another file


class Checkpoint(NamedTuple):
    """A checkpoint in the store: where its copy lies, what names its content, and what was asked for."""

    path: Path
    sha256: str
    given: str


@dataclass(frozen=True)
class Cache:
    """Where the checkpoints of one pipeline are kept, each in a folder that is called by its digest."""

    folder: Path
    digests: SourceDigests


def cache_of(store: Store, pipeline: str) -> Cache:
    """The cache in a store: `trtflow gc` removes what no run that it keeps used."""
    return Cache(store.root / pipeline / CHECKPOINTS, store.sources)


def with_checkpoint(pipeline: PipelineConfig, checkpoint: Checkpoint) -> PipelineConfig:
    """The pipeline with that checkpoint for its own."""
    key = "onnx" if isinstance(pipeline.model, OnnxModel) else "checkpoint"
    model = pipeline.model.model_copy(update={key: str(checkpoint.path)})
    return pipeline.model_copy(update={"model": model})


def record_of(
    checkpoint: Checkpoint, metadata: Mapping[str, str] | None = None, occurred: datetime | None = None
) -> CheckpointRecord:
    """What the record of a run keeps of it."""
    given = told_url(checkpoint.given) if is_url(checkpoint.given) else checkpoint.given
    return CheckpointRecord(given=given, sha256=checkpoint.sha256, metadata=dict(metadata or {}), occurred=occurred)


def check_checkpoint(checkpoint: str, roots: Roots | None) -> Path | None:
    """Raise ConfigError for a checkpoint that lies below no root, or that is no file; returns its path, if it has one.

    What a URL leads to is not looked at.
    """
    source = _Source(checkpoint, roots)
    source.check()
    return source.path


def why_unseen(url: str) -> str:
    """Look whether there is something at a URL: raise ConfigError if not, say why where that cannot be told here."""
    from fsspec.core import url_to_fs

    told = told_url(url)
    try:
        fs, path = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
        fs.info(path)
    except Exception as error:  # whatever a driver raises: the sender may have no login, and need none
        if why := _refusal(error):
            return f"{told} cannot be looked at from here: {_said(why):.300}"
        raise _absent(told) from error
    return ""


def fetched(checkpoint: str, sha256: str | None, roots: Roots | None, cache: Cache) -> Checkpoint:
    """Copy a checkpoint into the cache, unless it is there; raise ConfigError for one that may not be, or is another.

    Without `roots` any place will do, which is for who can read and write the YAML anyway. An ONNX file comes with the
    files beside it that hold its weights, and its digest is then one of all of them.
    """
    expected = None if sha256 is None else checked_sha256(sha256)
    source = _Source(checkpoint, roots)
    source.check()
    with store_errors(cache.folder):
        found = _cached(source, expected, cache)
        if found is not None:
            return found
        with _new_folder(cache.folder) as folder:
            main = folder / source.name
            digest = _copied(source, main)
            if expected not in (None, digest):
                raise ConfigError(
                    f"the checkpoint {source.told} has the sha256 {digest}, and {expected} was announced",
                    "it was written to since, or the digest is of another file: announce it again",
                )
            beside = {name: _copied(source.beside(name), _place(folder, name)) for name in _names_beside(main)}
            whole = sha256_text(canonical({"": digest, **beside})) if beside else digest
            return Checkpoint(_kept(folder, cache.folder / whole) / source.name, whole, checkpoint)


class _Source:
    """One file at a path or a URL."""

    def __init__(self, text: str, roots: Roots | None) -> None:
        self.text = text
        self._roots = roots
        self.path = local_path(text, roots.base if roots else Path.cwd())
        self.told = repr(text) if self.path else told_url(text)
        if self.path is None:
            check_url(text, roots)
        else:
            self.path = self._resolved(self.path)

    @property
    def name(self) -> str:
        """What its copy is called: the ending says how it is read, and the rest would only tell copies apart."""
        suffix = PurePosixPath(self.text if self.path else self.text.partition("?")[0]).suffix.lower()
        plain = suffix[1:].isalnum() and suffix.isascii() and len(suffix) <= _LONGEST_SUFFIX
        return f"{_FILE}{suffix}" if plain else _FILE

    def beside(self, name: str) -> "_Source":
        """Another file in the same folder."""
        text, mark, query = (self.text, "", "") if self.path else self.text.partition("?")
        return _Source(f"{text.rpartition('/')[0]}/{name}{mark}{query}" if "/" in text else name, self._roots)

    def check(self) -> None:
        """Raise ConfigError where it cannot be opened, or, for a URL, where nothing here could open it."""
        if self.path is not None:
            self._opened(self.path).close()
            return
        try:
            check_driver(self.text, "checkpoint")
        except StoreError as error:
            raise ConfigError(error.message, error.cure) from error

    def chunks(self) -> Generator[bytes, None, None]:
        """Its bytes; a path is held against the roots once more, by what was really opened."""
        return _url_chunks(self) if self.path is None else self._path_chunks(self.path)

    def remembered(self, digests: SourceDigests) -> str | None:
        """The digest of a file at a path, which is read if it is not known; errors come with the bytes."""
        try:
            return None if self.path is None or not self.path.is_file() else digests.sha256(self.path)
        except OSError:
            return None

    def _resolved(self, path: Path) -> Path:
        try:
            found = path.resolve()
        except (OSError, RuntimeError) as error:  # links in a circle
            raise ConfigError(f"the checkpoint {self.told} cannot be read: {error}", "correct the path") from error
        self._check_root(found)
        return found

    def _check_root(self, path: Path) -> None:
        if self._roots is not None and not any(path.is_relative_to(folder) for folder in self._roots.folders):
            leads = "" if str(path) == self.text else f", which is {path},"
            raise self._roots.refusal(f"{self.told}{leads}")

    def _path_chunks(self, path: Path) -> Generator[bytes, None, None]:
        with self._opened(path) as stream:
            before = os.fstat(stream.fileno())
            self._check_root(Path(f"/proc/self/fd/{stream.fileno()}").readlink())  # a link may be there by now
            yield from _read(stream)
            after = os.fstat(stream.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise ConfigError(
                    f"the checkpoint {self.told} was written to while it was read",
                    "announce it once it is whole: write another file, and rename it",
                )

    def _opened(self, path: Path) -> BinaryIO:
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # else a pipe's writer is waited for
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ConfigError(f"there is no checkpoint {self.told}", "give the path of a file") from error
        except OSError as error:
            cure = "give the path of a file that this user may read"
            raise ConfigError(f"the checkpoint {self.told} cannot be read: {error.strerror}", cure) from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise ConfigError(f"the checkpoint {self.told} is no file", "give the path of a file")
        return os.fdopen(handle, "rb")


def _read(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(_CHUNK):
        yield chunk


def _url_chunks(source: _Source) -> Generator[bytes, None, None]:
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(source.text, use_listings_cache=False, skip_instance_cache=True)
        with fs.open(path, "rb") as stream:
            yield from _read(stream)
    except Exception as error:  # a driver raises what its libraries raise: there is no common class
        why = _refusal(error)
        raise (_unreachable(source.told, why) if why else _absent(source.told)) from error


def _refusal(error: Exception) -> BaseException | None:
    """Why a file is not handed out; None where there is none, which fsspec also says of what a web server refuses."""
    if not isinstance(error, FileNotFoundError):
        return error
    cause = error.__cause__
    return cause if getattr(cause, "status", HTTPStatus.NOT_FOUND) != HTTPStatus.NOT_FOUND else None


def _absent(told: str) -> ConfigError:
    return ConfigError(f"there is no checkpoint {told}", "correct the URL")


def _unreachable(told: str, error: BaseException) -> ConfigError:
    cure = "check the URL, the network, the login"
    return ConfigError(f"the checkpoint {told} cannot be fetched: {_said(error):.500}", cure)


def _said(error: BaseException) -> str:
    return without_queries(str(error)) or type(error).__name__


def _cached(source: _Source, expected: str | None, cache: Cache) -> Checkpoint | None:
    """The copy of what is announced, if there is one and it is still what it was."""
    digest = expected or source.remembered(cache.digests)
    if digest is None:
        return None
    path = cache.folder / digest / source.name
    if not path.is_file():
        return None
    if cache.digests.sha256(path) != digest:
        remove_tree(path.parent)
        return None
    return Checkpoint(path, digest, source.text)


@contextlib.contextmanager
def _new_folder(cache: Path) -> Iterator[Path]:
    """A hidden folder that goes with its lock, unless it was given its name by then."""
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f".{uuid.uuid4().hex}.partial"
    with file_lock(folder.with_suffix(".lock"), threading.Event()):
        folder.mkdir()
        try:
            yield folder
        finally:
            remove_whatever(folder)


def _kept(folder: Path, final: Path) -> Path:
    """Give a folder its name; where another has it already, which holds the same bytes, see that the name is there."""
    sync_folder(folder)
    try:
        folder.rename(final)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        for path in folder.iterdir():
            if not (final / path.name).exists():
                link_or_copy(path, final / path.name)
    sync_folder(final.parent)
    return final


def _copied(source: _Source, target: Path) -> str:
    """Write a file's bytes; returns their digest."""
    digest = hashlib.sha256()
    with contextlib.closing(source.chunks()) as chunks, target.open("xb") as stream:
        for chunk in chunks:
            digest.update(chunk)
            stream.write(chunk)
        stream.flush()
        os.fsync(stream.fileno())
    target.chmod(0o444)
    return digest.hexdigest()


def _place(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _names_beside(main: Path) -> tuple[str, ...]:
    """Files that hold weights of an ONNX file, but for those that lead out of its folder: its first step refuses them.

    onnx is imported only where there seem to be such files.
    """
    if main.suffix != ".onnx" or not _holds(main, _EXTERNAL):
        return ()
    from tasks.runtimes.base import load_model
    from tasks.runtimes.external_data import external_names

    try:
        names = external_names(load_model(main, external_data=False))
    except (StepError, ValueError):  # no ONNX file: to be told by the step that reads it
        return ()
    return tuple(name for name in names if name and not name.startswith("/") and ".." not in Path(name).parts)


def _holds(path: Path, text: bytes) -> bool:
    with path.open("rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            return False
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return content.find(text) >= 0
