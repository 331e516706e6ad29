"""What `gc` removes, and what it must not."""

import os
import shutil
import subprocess
import threading
from pathlib import Path

import onnx
import pytest

from tasks.core.store import Store, read_report
from tests.commands import SOURCE, TINY, Call, fresh, tree
from tests.projects import Project, wait_until

pytestmark = pytest.mark.slow

# A source whose data waits for a file: its run can be looked at while it is at work.
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


def artifacts(project: Project) -> set[str]:
    folders = project.store.glob("tiny/*/[!.]*")
    return {f"{path.parent.name}/{path.name}" for path in folders if (path / "report.json").is_file()}


def copied(project: Project, folder: Path) -> Project:
    shutil.copytree(project.folder, folder)
    return Project(folder)


@pytest.fixture(scope="module")
def aged_once(once: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """What was run once, and then again with another benchmark: the first one is needed by the first run only."""
    project = copied(once, tmp_path_factory.mktemp("aged") / "project")
    project.write(tiny={**TINY, "benchmark": {"seconds": 0.03, "baselines": False}})
    assert project.run("run", "tiny").code == 0
    return project


@pytest.fixture
def aged(aged_once: Project, tmp_path: Path) -> Project:
    return copied(aged_once, tmp_path / "aged")


@pytest.fixture(scope="module")
def retrained_once(once: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """What was run once, and then again with another model and other data, from which everything was made anew."""
    project = copied(once, tmp_path_factory.mktemp("retrained") / "project")
    model = onnx.load(project.folder / "linear.onnx")
    model.graph.name = "retrained"
    onnx.save(model, project.folder / "linear.onnx")
    project.write(tiny={**TINY, "dims": {"batch": {"min": 1, "opt": 3, "max": 4}}})
    assert project.run("run", "tiny").code == 0
    return project


@pytest.fixture
def retrained(retrained_once: Project, tmp_path: Path) -> Project:
    return copied(retrained_once, tmp_path / "retrained")


def first_benchmark(project: Project) -> str:
    """The folder of the benchmark that only the first run needs."""
    reports = [read_report(path.parent) for path in (project.store / "tiny" / "benchmark").glob("*/report.json")]
    return min(reports, key=lambda report: report.started).artifact.folder


def test_what_the_newest_runs_need_stays_and_the_rest_goes(once: Project, aged: Project, call: Call) -> None:
    first = once.record("tiny").outcome.run
    old = first_benchmark(aged)
    before = artifacts(aged)
    told = call(aged, "gc", "tiny", "--keep-runs", "1", "--json").json
    assert set(told) == {"removed", "freed_bytes", "in_use", "dry_run"}
    drawn = {folder for folder in told["removed"] if folder.startswith("tiny/charts/")}
    assert drawn  # of the benchmark that goes
    assert set(told["removed"]) == {old, f"tiny/runs/{first}", *drawn}
    assert told["freed_bytes"] > 0
    assert artifacts(aged) == before - {folder.removeprefix("tiny/") for folder in (old, *drawn)}
    assert not aged.left_over()
    assert call(aged, "plan", "tiny").out.startswith("tiny: 17 steps, 16 cached")


def test_within_the_kept_runs_nothing_goes(aged: Project, call: Call) -> None:
    before = tree(aged.store)
    assert call(aged, "gc", "--keep-runs", "2", "--json").json["removed"] == []
    assert tree(aged.store) == before


def test_a_dry_run_names_what_would_go_and_removes_nothing(aged: Project, call: Call) -> None:
    before = tree(aged.store)
    dry = call(aged, "gc", "--keep-runs", "1", "--dry-run", "--json").json
    assert tree(aged.store) == before
    wet = call(aged, "gc", "--keep-runs", "1", "--json").json
    assert wet["removed"]
    assert (dry["removed"], dry["freed_bytes"]) == (wet["removed"], wet["freed_bytes"])
    assert (dry["dry_run"], wet["dry_run"]) == (True, False)


def test_what_was_promoted_stays_with_all_that_it_was_made_from(once: Project, retrained: Project, call: Call) -> None:
    engine = once.record("tiny").outcome.promoted
    assert engine is not None
    assert call(retrained, "gc", "tiny", "--keep-runs", "1", "--json").json["removed"]
    needed = [f"tiny/build/{engine.key[:20]}"]
    for name in needed:
        needed += read_report(retrained.store / name).recipe.lineage  # raises where it is gone
    assert {name.split("/")[1] for name in needed} == {"build", "quantize", "fold", "export", "data"}
    assert call(retrained, "plan", "tiny").out.startswith("tiny: 17 steps, 16 cached")


def test_what_a_killed_run_left_goes(done: Project, call: Call) -> None:
    (done.store / "tiny" / "runs" / "20200101T000000.000Z-000000").mkdir()
    (done.store / "tiny" / "data" / ".0123456789abcdef0123.partial").mkdir()
    told = call(done, "gc", "--json").json
    assert told["removed"] == ["tiny/runs/20200101T000000.000Z-000000"]
    assert not done.left_over()


def test_a_record_of_another_version_stays_while_it_is_new(done: Project, call: Call) -> None:
    for name in ("99991231T000000.000Z-ffffff", "20200101T000000.000Z-000000"):
        (done.store / "tiny" / "runs" / name).mkdir()
        (done.store / "tiny" / "runs" / name / "run.json").write_text('{"schema_version": 7}')
    assert call(done, "gc", "--keep-runs", "1", "--json").json["removed"] == ["tiny/runs/20200101T000000.000Z-000000"]


def test_a_file_that_lives_on_under_another_name_frees_nothing(aged: Project, call: Call) -> None:
    samples = aged.store / first_benchmark(aged) / "samples.npz"
    alone = call(aged, "gc", "--keep-runs", "1", "--dry-run", "--json").json["freed_bytes"]
    os.link(samples, aged.folder / "samples.npz")
    shared = call(aged, "gc", "--keep-runs", "1", "--dry-run", "--json").json["freed_bytes"]
    assert alone - shared == samples.stat().st_size


def test_an_index_whose_artifacts_are_gone_goes_too(once: Project, retrained: Project, call: Call) -> None:
    (old,) = (once.store / "tiny" / "data" / "index").iterdir()
    shutil.rmtree(retrained.store / "tiny" / "promotions")
    call(retrained, "gc", "--keep-runs", "1")
    (left,) = (retrained.store / "tiny" / "data" / "index").iterdir()
    assert left.name != old.name


def test_a_store_that_is_not_there_is_left_that_way(new: Project, call: Call) -> None:
    assert call(new, "gc", "--json").json == {"removed": [], "freed_bytes": 0, "in_use": [], "dry_run": False}
    assert not new.store.exists()


def test_nothing_of_a_pipeline_goes_while_a_run_is_at_work_on_it(tmp_path: Path, call: Call) -> None:
    project = fresh(tmp_path / "project")
    (project.folder / "waiting.py").write_text(WAITING.format(folder=tmp_path))
    project.write(tiny={**SOURCE, "data": {"evaluation": {"source": "waiting:samples"}}})
    process = project.start("run", "--json")
    try:
        wait_until((tmp_path / "waiting").exists, process)
        # `inspect` is made by now, and no run.json says that somebody needs it.
        (made,) = artifacts(project)
        for arguments in (("gc",), ("gc", "--dry-run")):
            told = call(project, *arguments, "--keep-runs", "1", "--json").json
            assert (told["in_use"], told["removed"]) == (["tiny"], [])
        assert "a run is at work on it" in call(project, "gc").err
        assert artifacts(project) == {made}
    finally:
        (tmp_path / "go").touch()
        finished = project.finish(process)
    assert finished.code == 0, finished.stderr
    told = call(project, "gc", "--json").json
    assert (told["in_use"], told["removed"]) == ([], [])


def test_a_run_that_begins_while_gc_is_at_work_waits_for_it(done: Project) -> None:
    store = Store(done.store, done.folder)
    with store.unused("tiny") as unused:
        assert unused
        process = done.start("run", "tiny", "--json")
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
    assert done.finish(process).code == 0


def test_two_runs_share_a_pipeline_and_both_keep_gc_away(done: Project) -> None:
    store = Store(done.store, done.folder)
    held = threading.Barrier(3)
    let_go = threading.Event()

    def run() -> None:
        with store.in_use("tiny"):
            held.wait(10)
            let_go.wait(10)

    runs = [threading.Thread(target=run) for _ in range(2)]
    for thread in runs:
        thread.start()
    held.wait(10)
    with store.unused("tiny") as unused:
        assert not unused
    let_go.set()
    for thread in runs:
        thread.join()
    with store.unused("tiny") as unused:
        assert unused
    assert not done.left_over()


@pytest.mark.parametrize("link", ["tiny/linked", "tiny/build/linked", "tiny/runs/linked"])
def test_nothing_behind_a_link_is_removed(aged: Project, call: Call, link: str) -> None:
    outside = aged.folder / "outside/deep"
    outside.mkdir(parents=True)
    (outside / "kept").touch()
    (aged.store / link).symlink_to(outside.parent)
    assert call(aged, "gc", "--keep-runs", "1").code == 0
    assert (outside / "kept").exists()
    assert (aged.store / link).is_symlink()


def test_a_pipeline_that_is_a_link_is_refused(aged: Project, call: Call) -> None:
    (aged.store / "tiny").rename(aged.folder / "elsewhere")
    (aged.store / "tiny").symlink_to(aged.folder / "elsewhere")
    before = tree(aged.folder / "elsewhere")
    said = call(aged, "gc", "--keep-runs", "1")
    assert (said.code, said.out) == (1, "")
    assert "tiny is a link" in said.err
    assert tree(aged.folder / "elsewhere") == before
