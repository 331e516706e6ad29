"""What the tests of the commands look at: projects that were run once for all of them."""

import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import cli
from tasks.core.environment import gpu
from tests.commands import BAD, TINY, Call, Said, fresh, fresh_torch
from tests.kept import kept_zygotes
from tests.prefect_database import Database
from tests.projects import Project
from tests.s3_server import BUCKET, S3Server, start_server


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first: what is left at the end is short, and no test process waits for another."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Commands share what they import. Those of other test processes do not wait for the benchmarks of this one."""
    with pytest.MonkeyPatch.context() as patch, kept_zygotes(tmp_path_factory.mktemp("kept")):
        if gpu() is None:  # else memory and time of the GPU are shared, and figures of it looked at
            patch.setenv("TRTFLOW_LOCKS", str(tmp_path_factory.mktemp("locks")))
        yield


@pytest.fixture(scope="session")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """What a new server of Prefect's begins with; all processes of the tests share the one that is copied."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "prefect"
    folder.mkdir(exist_ok=True)
    return Database(folder)


@pytest.fixture(autouse=True)
def _no_server() -> Iterator[None]:
    """A server that happens to run here is not told of the tests' runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PREFECT_API_URL", raising=False)
        yield


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    def command(project: Project, *arguments: str) -> Said:
        capsys.readouterr()
        code = cli.run(["-f", str(project.folder / "pipelines.yaml"), *arguments])
        printed = capsys.readouterr()
        return Said(code, printed.out, printed.err)

    return command


@pytest.fixture
def new(tmp_path: Path) -> Project:
    """A project that was never run."""
    return fresh(tmp_path / "project")


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """`tiny` passed and is promoted, `bad` failed; not to be changed."""
    project = fresh(tmp_path_factory.mktemp("once") / "project")
    project.write(tiny=TINY, bad=BAD)
    finished = project.execute("run", "--json")
    assert (finished.runs["tiny"].status, finished.runs["bad"].status) == ("passed", "failed"), finished.stderr
    assert finished.code == 1
    return project


@pytest.fixture
def done(once: Project, tmp_path: Path) -> Project:
    """A copy of what was run once, to change."""
    shutil.copytree(once.folder, tmp_path / "project")
    return Project(tmp_path / "project")


@pytest.fixture(scope="session")
def torch_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """`net`, a torch module, passed and is promoted; not to be changed."""
    project = fresh_torch(tmp_path_factory.mktemp("torch") / "project")
    finished = project.run("run", "--json")
    assert finished.runs["net"].status == "passed", finished
    return project


@pytest.fixture
def torch_done(torch_once: Project, tmp_path: Path) -> Project:
    """A copy of what was run once, to change."""
    shutil.copytree(torch_once.folder, tmp_path / "torch")
    return Project(tmp_path / "torch")


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """A real S3-compatible server, with an empty bucket."""
    server = start_server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a folder of its own in the bucket, with the environment that leads there."""
    for name, text in s3_server.environment.items():
        monkeypatch.setenv(name, text)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture(params=["file", "memory", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new place of each kind."""
    match request.param:
        case "file":
            return f"file://{tmp_path}/remote"
        case "memory":
            return f"memory://{uuid.uuid4().hex}"
        case _:
            return str(request.getfixturevalue("s3"))
