"""What a user's data source reads is seen, in the worker where it really runs; what it does not depend on is not."""

import importlib.metadata
import os
import py_compile
import subprocess
import sys
import sysconfig
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tasks.core.errors import UserCodeError
from tasks.core.observations import listing_digest
from tasks.core.report import Observation
from tasks.core.signature import InputSpec, Signature
from tasks.homes import PLAIN
from tasks.runtimes.isolate import Home, Workers
from tasks.sources.collect import DataReply, DataRequest, DataSource, collect
from tests.programs import PATIENCE_SECONDS

SIGNATURE = Signature(inputs={"x": InputSpec(dtype="float32", shape=(2,))}, dims={})


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(timeout_seconds=PATIENCE_SECONDS) as shared:
        yield shared


@dataclass
class Project:
    """A folder with a data source that runs the code of a test."""

    folder: Path
    workers: Workers
    home: Home = PLAIN

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        np.save(self.folder / "data.npy", np.zeros(2, np.float32))

    @property
    def own(self) -> Path:
        """The step's own folder."""
        return self.folder / "artifacts/p/data/.0.partial"

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
        return path

    def collect(self, body: str) -> DataReply:
        """Run `body` in the source; it may set `x`."""
        self.write_source(body)
        return self.collect_again()

    def write_source(self, body: str) -> None:
        code = textwrap.indent(textwrap.dedent(body).strip(), "    ")
        self.write(
            "source.py",
            f"import numpy as np\n\n\ndef rows():\n    x = 0\n{code}\n    yield dict(x=np.full(2, x, 'f'))\n",
        )

    def collect_again(self) -> DataReply:
        self.own.mkdir(parents=True, exist_ok=True)
        source = DataSource(source="source:rows", samples=None)
        request = DataRequest(
            project=self.folder, signature=SIGNATURE, calibration=source, evaluation=None, folder=self.own
        )
        return self.workers.call(self.home, collect, request, scratch=self.own / "scratch")

    def observe(self, body: str) -> set[tuple[str, str]]:
        """Kinds and names of what was seen, without packages and what is seen of the source itself."""
        observed = self.collect(body).observed
        seen: set[tuple[str, str]] = {(found.kind, found.name) for found in observed if found.kind != "package"}
        always = {("file", "source.py"), ("absent", "source")}
        assert always <= seen
        return seen - always


@pytest.fixture
def project(tmp_path: Path, workers: Workers) -> Project:
    return Project(tmp_path / "project", workers)


def value_of(reply: DataReply) -> float:
    assert reply.metrics.calibration is not None
    return reply.metrics.calibration.tensors["x"].mean


@pytest.mark.parametrize(
    "read",
    [
        "open('data.npy', 'rb').close()",
        "open(b'data.npy', 'rb').close()",
        "from pathlib import Path; Path('data.npy').read_bytes()",
        "import os; os.close(os.open('data.npy', os.O_RDONLY))",
        "np.load('data.npy')",
        "np.load('data.npy', mmap_mode='r')",
        "np.memmap('data.npy', mode='r')",
        "np.fromfile('data.npy', 'f')",
        "from pathlib import Path; np.load(Path(__file__).parent / 'data.npy')",
        "import os; np.load(os.path.abspath('sub/../data.npy'))",
        "import threading as t; a = t.Thread(target=np.load, args=['data.npy']); a.start(); a.join()",
        "import shutil, tempfile; shutil.copy('data.npy', tempfile.mkdtemp())",
    ],
)
def test_file_that_is_read_is_seen(project: Project, read: str) -> None:
    assert project.observe(read) == {("file", "data.npy")}


@pytest.mark.parametrize(
    "read",
    [
        "from safetensors.numpy import load_file; load_file('w.safetensors')",
        "from safetensors import safe_open; safe_open('w.safetensors', 'np').keys()",
        "from safetensors import safe_open; safe_open(framework='np', filename='w.safetensors')",
        "import safetensors as s\nwith s.safe_open('w.safetensors', framework='np') as f: f.get_tensor('w')",
    ],
)
def test_file_that_safetensors_opens_by_itself_is_seen(project: Project, read: str) -> None:
    save_file({"w": np.zeros(2, np.float32)}, project.folder / "w.safetensors")
    assert project.observe(read) == {("file", "w.safetensors")}


@pytest.mark.parametrize(
    "read",
    [
        "import multiprocessing as m; m.get_context('fork').Pool(2).map(np.load, ['data.npy'])",
        "import os\nif os.fork() == 0:\n    np.load('data.npy')\n    os._exit(0)\nos.wait()",
    ],
)
def test_file_that_a_forked_process_reads_is_seen(project: Project, read: str) -> None:
    assert project.observe(read) == {("file", "data.npy")}


def test_digest_is_that_of_what_was_read(project: Project) -> None:
    seen = {found.name: found.digest for found in project.collect("np.load('data.npy')").observed}
    first = seen["data.npy"]
    np.save(project.folder / "data.npy", np.ones(2, np.float32))
    seen = {found.name: found.digest for found in project.collect_again().observed}
    assert seen["data.npy"] != first


def test_file_outside_the_project_is_seen_by_its_whole_path(project: Project, tmp_path: Path) -> None:
    (tmp_path / "shared.txt").touch()
    assert project.observe("open('../shared.txt').close()") == {("file", str(tmp_path / "shared.txt"))}


def test_link_is_seen_by_its_own_name(project: Project) -> None:
    (project.folder / "current.npy").symlink_to("data.npy")
    assert project.observe("np.load('current.npy')") == {("file", "current.npy")}


def test_project_behind_a_link_is_seen_by_the_names_in_it(tmp_path: Path, workers: Workers) -> None:
    Project(tmp_path / "release-1", workers)
    (tmp_path / "current").symlink_to("release-1")
    read = "from pathlib import Path\nnp.load('data.npy'), np.load(Path(__file__).resolve().parent / 'data.npy')"
    assert Project(tmp_path / "current", workers).observe(read) == {("file", "data.npy")}


@pytest.mark.parametrize(
    ("look", "name"),
    [
        ("try: open('override.json')\nexcept OSError: pass", "override.json"),
        ("import os; os.path.exists('override.json')", "override.json"),
        ("from pathlib import Path; Path('conf/override.json').is_file()", "conf/override.json"),
        ("try: np.load('gone/data.npy')\nexcept OSError: pass", "gone/data.npy"),
    ],
)
def test_file_that_is_looked_for_in_vain_is_seen(project: Project, look: str, name: str) -> None:
    assert project.observe(look) == {("absent", name)}


@pytest.mark.parametrize(
    "look",
    [
        "import os; os.listdir('sets')",
        "import os; list(os.scandir('sets'))",
        "import os; os.chdir('sets'); os.listdir()",
        "import glob; glob.glob('sets/*.npy')",
        "from pathlib import Path; list(Path('sets').iterdir())",
        "from pathlib import Path; list(Path('sets').glob('*.npy'))",
    ],
)
def test_folder_that_is_listed_is_seen(project: Project, look: str) -> None:
    project.write("sets/one.npy", "")
    reply = project.collect(look)
    (seen,) = (found for found in reply.observed if found.kind == "listing")
    assert seen == Observation(kind="listing", name="sets", digest=listing_digest(project.folder / "sets"))


@pytest.mark.parametrize(
    "load",
    [
        "import helper",
        "import importlib; importlib.import_module('helper')",
        "from helper import VALUE",
        "import runpy; runpy.run_path('helper.py')",
        "exec(open('helper.py').read())",
    ],
)
def test_helper_module_is_seen(project: Project, load: str) -> None:
    project.write("helper.py", "VALUE = 1\n")
    seen = project.observe(load)
    assert ("file", "helper.py") in seen
    assert seen <= {("file", "helper.py"), ("absent", "helper")}


BY_PATH = """
from importlib.util import module_from_spec, spec_from_file_location
spec = spec_from_file_location("anything", "parts/helper.py")
module = module_from_spec(spec)
spec.loader.exec_module(module)
x = module.VALUE
"""


def test_module_that_is_loaded_by_its_path_is_seen(project: Project) -> None:
    project.write("parts/helper.py", "VALUE = 1\n")
    assert project.observe(BY_PATH) == {("file", "parts/helper.py")}


def test_every_file_of_a_package_that_is_imported_is_seen(project: Project) -> None:
    for name in ("zoo/__init__.py", "zoo/parts/__init__.py", "zoo/parts/layer.py", "zoo/other.py"):
        project.write(name, "")
    seen = project.observe("from zoo.parts import layer")
    assert {name for kind, name in seen if kind == "file"} == {
        "zoo/__init__.py",
        "zoo/parts/__init__.py",
        "zoo/parts/layer.py",
    }


@pytest.mark.parametrize("load", ["import helper\nx = helper.VALUE", BY_PATH.replace("parts/", "")])
def test_edit_of_equal_size_in_the_same_second_is_seen(project: Project, load: str) -> None:
    helper = project.write("helper.py", "VALUE = 1\n")
    os.utime(helper, ns=(10**18, 10**18))
    py_compile.compile(str(helper))  # Python takes this for the module as long as size and whole second are the same
    assert value_of(project.collect(load)) == 1
    helper.write_text("VALUE = 2\n")
    os.utime(helper, ns=(10**18 + 1000, 10**18 + 1000))
    reply = project.collect_again()
    assert value_of(reply) == 2
    assert not {found.name for found in reply.observed if "__pycache__" in found.name}


def test_module_that_could_come_is_seen(project: Project) -> None:
    seen = project.observe("try: import local_settings\nexcept ImportError: x = 1")
    assert seen == {("absent", "local_settings.py"), ("absent", "local_settings")}


def test_module_that_could_hide_an_installed_one_is_seen(project: Project) -> None:
    seen = project.observe("import pluggy, json")
    assert seen == {("absent", "pluggy.py"), ("absent", "pluggy")}
    packages = {found.name: found.digest for found in project.collect_again().observed if found.kind == "package"}
    assert packages["pluggy"] == importlib.metadata.version("pluggy")


def test_what_an_interrupted_installation_left_is_not_taken_for_what_is_installed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = project.folder / "site-packages"
    for folder, version in (("~hapes-0.9", "0.9"), ("shapes-1.0", "1.0"), ("~ones-1", "")):
        info = packages / f"{folder}.dist-info"
        info.mkdir(parents=True)
        (info / "RECORD").write_text("shapes.py,,\n")
        if version:
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: shapes\nVersion: {version}\n")
    (packages / "shapes.py").touch()
    reply = project.collect(f"import sys; sys.path.append({str(packages)!r}); import shapes")
    monkeypatch.syspath_prepend(str(packages))
    (seen,) = (found for found in reply.observed if (found.kind, found.name) == ("package", "shapes"))
    assert seen.digest == importlib.metadata.version("shapes")


@pytest.mark.parametrize(
    "act",
    [
        "import pluggy, pathlib; pathlib.Path(pluggy.__file__).read_bytes()",  # its version counts
        "import inspect, textwrap; inspect.getsource(textwrap)",
        "import os; os.listdir(os.path.dirname(np.__file__))",
        "import importlib.metadata; importlib.metadata.version('numpy')",
        "open('/proc/self/status').read(), open('/dev/null').read()",
        "open('out.txt', 'w').close(), open('log.txt', 'a').close()",
        "np.save('cache.npy', np.zeros(3))",
        "import os; os.mkdir('made')",
        "import tempfile; f = tempfile.NamedTemporaryFile(); f.write(b'x'); f.flush(); open(f.name).close()",
        "import os; r, w = os.pipe(); os.fdopen(r).close()",
        "import os; os.mkfifo('pipe'); os.close(os.open('pipe', os.O_RDWR))",
    ],
)
def test_what_the_code_does_not_depend_on_is_not_seen(project: Project, act: str) -> None:
    seen = project.observe(act)
    assert seen <= {("absent", "pluggy.py"), ("absent", "pluggy")}


def test_own_folder_of_the_step_is_not_seen(project: Project) -> None:
    (project.own / "inner").mkdir(parents=True)
    (project.own / "inner/x").touch()
    own = str(project.own)
    assert project.observe(f"import os; os.listdir('{own}'), open('{own}/inner/x').close()") == set()


def test_file_that_the_code_writes_and_reads_is_seen_as_it_was_left(project: Project) -> None:
    def seen(body: str) -> dict[str, str]:
        return {found.name: found.kind for found in project.collect(body).observed if found.name.startswith("state")}

    for body in (
        "open('state', 'w').write('1'); open('state').read()",  # a cache that was not there
        "text = open('state').read(); open('state', 'w').write(text + '1')",  # a counter
        "f = open('state', 'r+'); f.write('2'); f.close()",
        "import os; open('state').read(); open('new', 'w').write('3'); os.replace('new', 'state')",
    ):
        assert seen(body) == {"state": "file"}
    project.write_source("open('state').read()")
    (read,) = (found for found in project.collect_again().observed if found.name == "state")
    (left,) = (found for found in project.collect("open('state', 'a+').read()").observed if found.name == "state")
    assert read == left
    assert seen("import os; open('state').read(); os.remove('state')") == {"state": "absent"}


class ChangeDuring(threading.Thread):
    """Changes a file once the code has read it, and lets the code go on."""

    def __init__(self, project: Project, name: str) -> None:
        super().__init__()
        self._folder, self._name = project.folder, name

    def run(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (self._folder / "was-read").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        with (self._folder / self._name).open("a") as stream:
            stream.write("# another line\n")
        (self._folder / "changed").touch()


WAIT = "\nimport os, time\nopen('was-read', 'w').close()\nwhile not os.path.exists('changed'): time.sleep(0.01)"


@pytest.mark.parametrize(
    ("name", "read"), [("data.npy", "np.load('data.npy')"), ("helper.py", "import helper"), ("helper.py", BY_PATH)]
)
def test_file_that_changes_while_it_is_read_is_a_clear_error(project: Project, name: str, read: str) -> None:
    project.write("helper.py", "VALUE = 1\n")
    other = ChangeDuring(project, name)
    other.start()
    with pytest.raises(UserCodeError, match=f"{name} changed while it was read") as caught:
        project.collect(read.replace("parts/", "") + WAIT)
    other.join()
    assert "run again" in caught.value.cure


def test_unchanged_code_is_seen_the_same_again(project: Project) -> None:
    project.write("helper.py", "VALUE = 1\n")
    project.write("sets/one.npy", "")
    first = project.collect("import helper, os; os.listdir('sets'); np.load('data.npy')")
    assert project.collect_again().observed == first.observed


@pytest.mark.parametrize("inside", [True, False])
def test_environment_and_project_may_lie_in_each_other(
    tmp_path: Path, workers: Workers, monkeypatch: pytest.MonkeyPatch, *, inside: bool
) -> None:
    environment = tmp_path / "app" / ("" if inside else ".venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    (environment / "share").mkdir()
    (environment / "share/words").touch()
    monkeypatch.setenv("PYTHONPATH", sysconfig.get_paths()["purelib"])
    home = Home(preload=PLAIN.preload, python=str(environment / "bin/python"))
    project = Project(tmp_path / "app" / ("src" if inside else ""), workers, home)
    seen = project.observe(f"np.load('data.npy'), open('{environment}/share/words').close()")
    assert ("file", "data.npy") in seen
    assert seen <= {("file", "data.npy"), ("file", f"{environment}/share/words")}
