"""A project with a store that a real run made, the command called on it, and what may not happen to anything else."""

import contextlib
import io
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from flows import cli
from tests.signatures import make_pair

# Ten times what the slowest command took: it is there for what never ends.
_PATIENCE_SECONDS = 60.0
_LONGEST_MESSAGE = 20_000
_EXIT_CODES = {0, 1, 2}


class Hung(BaseException):
    """A command did not end; not an Exception, so that nothing takes it for an error of its own."""


class Said(NamedTuple):
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@dataclass
class World:
    """`base` holds the project, whose store is put back before each use, and things that are none of its business."""

    base: Path
    name: str

    @property
    def project(self) -> Path:
        """Folder of the pipelines.yaml."""
        return self.base / "place/project"

    @property
    def store(self) -> Path:
        """The store that is there to be damaged."""
        return self.project / "artifacts"

    @property
    def outside(self) -> Path:
        """What the documents try to reach."""
        return self.base / "place/outside"

    @property
    def pristine(self) -> Path:
        """The store as the run left it."""
        return self.base / "pristine"

    def documents(self, *patterns: str) -> list[str]:
        """Names of the pristine store's documents."""
        found = [path for pattern in patterns for path in self.pristine.glob(pattern) if path.is_file()]
        return sorted(str(path.relative_to(self.pristine)) for path in found)

    def read(self, name: str) -> Any:  # noqa: ANN401 -- any JSON
        """One of them."""
        return json.loads((self.pristine / name).read_text(encoding="utf-8"))

    def restore(self) -> None:
        """Put the store and the YAML back; the store's files are links, which keeps what it remembers of them true."""
        shutil.rmtree(self.store, ignore_errors=True)
        shutil.copytree(self.pristine, self.store, copy_function=_link, symlinks=True)
        shutil.copyfile(self.base / "pipelines.yaml", self.project / "pipelines.yaml")

    def put(self, name: str, content: bytes) -> None:
        """Put a document into the store, and away what remembers the right one's digest."""
        path = self.store / name
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        if path.name != ".verified":
            (path.parent / ".verified").unlink(missing_ok=True)

    def call(self, *arguments: str) -> Said:
        """Run a command as `main` would, and check that it ended as every command must."""
        out, err = _stream("strict"), _stream("backslashreplace")
        before = self.surroundings()
        with time_limit(arguments), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run(["-f", str(self.project / "pipelines.yaml"), *arguments])
        said = Said(code, _written(out), _written(err))
        assert said.code in _EXIT_CODES, (arguments, said)
        assert "Traceback" not in said.err, (arguments, said.err)
        assert "\n\n" not in said.err, (arguments, said.err)  # one paragraph
        assert len(said.err) < _LONGEST_MESSAGE, (arguments, len(said.err), said.err[:300])
        assert code or "--json" not in arguments or isinstance(json.loads(said.out), dict), (arguments, said)
        assert self.surroundings() == before, arguments
        return said

    def surroundings(self) -> dict[str, tuple[int, int, int]]:
        """Everything but the store: kind, size and time of each file and folder."""
        found = {}
        for top, folders, files in os.walk(self.base):
            if Path(top) == self.project and "artifacts" in folders:
                folders.remove("artifacts")
            for name in (*folders, *files):
                status = (Path(top) / name).lstat()
                # A folder's time tells of its entries, which are listed themselves; that of the project of its store.
                size, time = (0, 0) if name in folders else (status.st_size, status.st_mtime_ns)
                found[f"{top}/{name}"] = (status.st_mode, size, time)
        return found


def make_world(base: Path, name: str, made: Path) -> World:
    """Copy a project that was run, where `name` passed, and put things around it that are none of its business."""
    world = World(base, name)
    for folder in ("place/outside/deep/deeper", "place/tmp", "place/here"):
        (base / folder).mkdir(parents=True)
    for kept in ("kept", ".hidden.partial", "deep/report.json", "deep/deeper/report.json", "deep/deeper/model.engine"):
        (world.outside / kept).write_text("{}")
    make_pair(world.outside, "team")
    shutil.copytree(made, world.project)
    shutil.copyfile(world.project / "pipelines.yaml", base / "pipelines.yaml")
    shutil.move(world.store, world.pristine)
    return world


@contextlib.contextmanager
def inside(world: World) -> Iterator[World]:
    """Work from a folder of the world, with its temporary folder."""
    before, temporary = Path.cwd(), os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = tempfile.tempdir = str(world.base / "place/tmp")
    os.chdir(world.base / "place/here")
    try:
        yield world
    finally:
        os.chdir(before)
        tempfile.tempdir = None
        os.environ.pop("TMPDIR") if temporary is None else os.environ.update(TMPDIR=temporary)


@contextlib.contextmanager
def time_limit(what: object) -> Iterator[None]:
    def give_up(signum: int, frame: FrameType | None) -> None:
        raise Hung(what, signum, frame)

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, _PATIENCE_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _link(source: str, target: str) -> None:
    if source.endswith(".jsonl"):  # the only files that are written in place
        shutil.copy2(source, target)
    else:
        os.link(source, target)


def _stream(errors: str) -> io.TextIOWrapper:
    """What a command is given in place of a terminal: text that cannot be encoded is an error there too."""
    return io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors=errors, write_through=True)


def _written(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode()
