"""Two machines, each with a cache of its own, and one store at a URL: what one made, the other does not make."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import cli
from tests.commands import SOURCE, TINY, Call, fresh
from tests.projects import Finished, Project, wait_until
from tests.s3_server import BUCKET, S3Server, start_server
from tests.test_warm import HEAVY, imported_by

pytestmark = pytest.mark.slow

WAITING = """
import pathlib, time
import numpy as np

folder = pathlib.Path("{folder}")

def samples():
    (folder / "waiting").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    yield {{"x": np.ones((2, 4), np.float32)}}, {{}}
"""


class Machine:
    """A checkout of the project, and a cache."""

    def __init__(self, folder: Path, url: str) -> None:
        self.project = fresh(folder / "project")
        self.shared = ("--store", url, "--cache", str(folder / "cache"))

    def run(self, *arguments: str) -> Finished:
        return self.project.run(*self.shared, *arguments)

    @property
    def cache(self) -> Path:
        (folder,) = Path(self.shared[3]).iterdir()
        return folder


@pytest.fixture(scope="module")
def remote(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that one machine has run `tiny` into; not to be changed."""
    folder = tmp_path_factory.mktemp("remote")
    finished = Machine(folder / "first", f"file://{folder}/store").run("run", "tiny", "--json")
    assert finished.runs["tiny"].status == "passed", finished.stderr
    return folder


@pytest.fixture
def copied(remote: Path, tmp_path: Path) -> str:
    """The URL of a copy of it, to change."""
    shutil.copytree(remote / "store", tmp_path / "store")
    return f"file://{tmp_path}/store"


def engine_in_force(machine: Machine, call: Call) -> str:
    return str(call(machine.project, *machine.shared, "show", "tiny", "--json").json["promoted"]["key"])


def test_the_second_machine_computes_nothing(remote: Path, copied: str, tmp_path: Path, call: Call) -> None:
    second = Machine(tmp_path / "second", copied)
    plan = call(second.project, *second.shared, "plan", "tiny").out
    assert plan.startswith("tiny: 17 steps, 16 cached")
    assert not list(second.cache.glob("tiny/build/*"))  # only looked at
    finished = second.run("run", "tiny", "--json")
    assert finished.code == 0, finished.stderr
    assert {step.step for step in finished.runs["tiny"].steps if not step.cached} == {"promote"}
    (record,) = (json.loads(path.read_bytes()) for path in (remote / "store/tiny/runs").glob("*/run.json"))
    promoted = finished.runs["tiny"].promoted
    assert promoted is not None
    assert promoted.key == record["outcome"]["promoted"]["key"]
    assert len(list((tmp_path / "store/tiny/promotions").iterdir())) == 1
    assert len(list((tmp_path / "store/tiny/runs").iterdir())) == 2


def test_a_third_machine_can_look_repeat_and_roll_back(copied: str, tmp_path: Path, call: Call) -> None:
    first, third = Machine(tmp_path / "first", copied), Machine(tmp_path / "third", copied)
    assert "onnxruntime/fp32" in call(third.project, *third.shared, "list").out
    (built,) = (path.parent for path in (tmp_path / "store/tiny/fold").glob("*/report.json"))
    told = call(third.project, *third.shared, "repro", f"tiny/fold/{built.name}", "--json")
    assert set(told.json["files"].values()) == {"identical"}, told
    key = engine_in_force(first, call)
    assert call(third.project, *third.shared, "rollback", "tiny").code == 0
    assert call(first.project, *first.shared, "show", "tiny", "--json").json["promoted"] is None
    assert call(first.project, *first.shared, "promote", "tiny", "onnxruntime/fp32").code == 0
    assert engine_in_force(third, call) == key


def test_gc_on_one_machine_leaves_the_other_whole(copied: str, tmp_path: Path, call: Call) -> None:
    first, second = Machine(tmp_path / "first", copied), Machine(tmp_path / "second", copied)
    assert first.run("run", "tiny", "--json").code == 0
    second.project.write(tiny={**TINY, "benchmark": {"seconds": 0.03, "baselines": False}})
    assert second.run("run", "tiny", "--json").code == 0
    gone = list((tmp_path / "store/tiny/benchmark").iterdir())
    for blob in (tmp_path / "store/blobs").glob("*/*"):
        os.utime(blob, (0, 0))  # long ago: what is unused goes
    blobs = len(list((tmp_path / "store/blobs").glob("*/*")))
    dry = call(second.project, *second.shared, "gc", "--keep-runs", "1", "--dry-run", "--json").json
    told = call(second.project, *second.shared, "gc", "--keep-runs", "1", "--json").json
    assert (dry["removed"], dry["freed_bytes"]) == (told["removed"], told["freed_bytes"])
    assert sum(name.startswith("tiny/runs/") for name in told["removed"]) == 2
    assert [name for name in told["removed"] if "/benchmark/" in name]
    assert len(list((tmp_path / "store/blobs").glob("*/*"))) < blobs
    assert sum(path.exists() for path in gone) < len(gone) or not all((path / "report.json").exists() for path in gone)
    third = Machine(tmp_path / "third", copied)
    for machine in (second, first, third):  # the first one has it still, and gives it back
        run = machine.run("run", "tiny", "--json").runs["tiny"]
        # With the runs went measurements, so the chart of what was measured over time is another one.
        assert {step.step for step in run.steps if not step.cached} - {"charts"} == {"promote"}


def test_nothing_of_a_pipeline_goes_while_this_machine_runs_it(tmp_path: Path, call: Call) -> None:
    machine = Machine(tmp_path / "one", f"file://{tmp_path}/store")
    (machine.project.folder / "waiting.py").write_text(WAITING.format(folder=tmp_path))
    machine.project.write(tiny={**SOURCE, "data": {"evaluation": {"source": "waiting:samples"}}})
    process = machine.project.start(*machine.shared, "run", "--json")
    try:
        wait_until((tmp_path / "waiting").exists, process)
        told = call(machine.project, *machine.shared, "gc", "--keep-runs", "1", "--json").json
        assert (told["in_use"], told["removed"]) == (["tiny"], [])
    finally:
        (tmp_path / "go").touch()
        finished = machine.project.finish(process)
    assert finished.code == 0, finished.stderr


def test_gc_elsewhere_takes_nothing_from_a_run_at_work(tmp_path: Path, call: Call) -> None:
    url = f"file://{tmp_path}/store"
    one, other = Machine(tmp_path / "one", url), Machine(tmp_path / "other", url)
    for machine in (one, other):
        (machine.project.folder / "waiting.py").write_text(WAITING.format(folder=tmp_path))
        machine.project.write(tiny={**SOURCE, "data": {"evaluation": {"source": "waiting:samples"}}})
    process = one.project.start(*one.shared, "run", "--json")
    try:
        wait_until((tmp_path / "waiting").exists, process)
        for blob in (tmp_path / "store/blobs").glob("*/*"):
            os.utime(blob, (0, 0))
        told = call(other.project, *other.shared, "gc", "--json").json
        assert [name.split("/")[1] for name in told["removed"]] == ["inspect"]  # no record names it yet
    finally:
        (tmp_path / "go").touch()
        finished = one.project.finish(process)
    assert finished.code == 0, finished.stderr
    taken = other.run("run", "--json").runs["tiny"]
    assert {step.step for step in taken.steps if not step.cached} == {"promote"}


def test_a_run_in_which_nothing_changed_imports_nothing_heavy(copied: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "one", copied)
    assert machine.run("run", "tiny", "--json").code == 0
    packages, _ = imported_by(machine.project, *machine.shared, "run", "tiny", "--json")
    assert "fsspec" in packages
    assert not packages & HEAVY


def test_a_store_that_goes_away_in_a_run_costs_nothing_that_was_made(tmp_path: Path) -> None:
    machine = Machine(tmp_path / "one", f"file://{tmp_path}/store")
    (machine.project.folder / "waiting.py").write_text(WAITING.format(folder=tmp_path))
    machine.project.write(tiny={**SOURCE, "data": {"evaluation": {"source": "waiting:samples"}}})
    process = machine.project.start(*machine.shared, "run", "--json")
    wait_until((tmp_path / "waiting").exists, process)
    (tmp_path / "store").rename(tmp_path / "away")
    (tmp_path / "store").write_text("in the way")
    (tmp_path / "go").touch()
    finished = machine.project.finish(process)
    assert (finished.code, finished.runs["tiny"].status) == (1, "failed")
    assert f"the store at file://{tmp_path}/store failed" in finished.stderr
    (tmp_path / "store").unlink()
    (tmp_path / "away").rename(tmp_path / "store")
    again = machine.run("run", "--json")
    assert again.code == 0, again.stderr
    assert {step.step for step in again.runs["tiny"].steps if step.cached} >= {"inspect", "data"}
    assert (tmp_path / "store/tiny/promoted.json").is_file()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A server of its own, to stop."""
    started = start_server()
    for name, text in started.environment.items():
        monkeypatch.setenv(name, text)
    yield started
    started.stop()


def test_two_machines_share_a_bucket_and_one_without_a_server_says_so(server: S3Server, tmp_path: Path) -> None:
    url = f"s3://{BUCKET}/artifacts"
    first, second = Machine(tmp_path / "first", url), Machine(tmp_path / "second", url)
    made = first.run("run", "tiny", "--json")
    assert made.code == 0, made.stderr
    taken = second.run("run", "tiny", "--json")
    assert {step.step for step in taken.runs["tiny"].steps if not step.cached} == {"promote"}
    assert taken.runs["tiny"].promoted == made.runs["tiny"].promoted
    assert second.run("gc", "--keep-runs", "1", "--json").code == 0
    server.stop()
    gone = second.run("run", "tiny")
    assert gone.code == 1
    assert f"the store at {url} does not answer" in gone.stderr


def test_a_wrong_place_is_found_before_a_step_runs(s3: str, new: Project, capsys: pytest.CaptureFixture[str]) -> None:
    (new.folder / "pipelines.yaml").write_text(
        f"version: 1\nstore: {s3.replace(BUCKET, 'nowhere')}\npipelines: {{tiny: {{model: {{onnx: linear.onnx}}}}}}\n"
    )
    arguments = ["-f", str(new.folder / "pipelines.yaml"), "--cache", str(new.folder / "cache"), "run"]
    assert cli.run(arguments) == 2
    told = capsys.readouterr().err
    assert "pipelines.yaml:2" in told
    assert "there is no such bucket" in told


def test_the_cache_is_where_it_was_asked_for(
    copied: str, new: Project, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert call(new, "--store", copied, "list").code == 0
    assert len(list((tmp_path / "xdg/trtflow").glob("*/tiny/runs/*/run.json"))) == 1
    monkeypatch.setenv("TRTFLOW_CACHE", str(tmp_path / "mine"))
    assert call(new, "--store", copied, "list").code == 0
    assert len(list((tmp_path / "mine").glob("*/tiny/runs/*/run.json"))) == 1
