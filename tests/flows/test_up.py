"""`trtflow up` for real: what it starts, serves and says, and what is true after something of it was killed."""

import contextlib
import os
import signal
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from flows.server import Server
from tests.commands import BAD, SOURCE, TINY, fresh
from tests.processes import marked
from tests.projects import Project
from tests.services import Service, free_port, receiver, service, wait_for

# A conversion that stays where it is for as long as there is a file `hold`.
_SLOW = """
import time
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent

def evaluation():
    while (HERE / "hold").exists():
        (HERE / "held").touch()
        time.sleep(0.05)
    yield {"x": np.ones((4, 4), np.float32)}, {}
"""
SLOW = {**SOURCE, "data": {"evaluation": {"source": "slow:evaluation"}}}


def project_in(folder: Path, webhook: str) -> Project:
    project = fresh(folder)
    (folder / "slow.py").write_text(_SLOW)
    pipelines: dict[str, Any] = {
        "tiny": {**TINY, "on_retrain": True, "schedule": {"cron": "0 3 * * *", "timezone": "Europe/Paris"}},
        "bad": BAD,
        "slow": SLOW,
        "slow2": SLOW,
    }
    head = {"version": 1, "keep": {"runs": 1}, "notify": {"webhook": webhook}}
    (folder / "pipelines.yaml").write_text(yaml.safe_dump({**head, "pipelines": pipelines}))
    return project


@pytest.fixture(scope="module")
def heard() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    with receiver() as found:
        yield found


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, heard: tuple[str, list[dict[str, Any]]]) -> Iterator[Service]:
    """Served for all tests of this file, in their order: the last ones kill it."""
    deep = tmp_path_factory.mktemp("up") / ("deep" * 20)  # deeper than the path of a socket may be
    project = project_in(deep / "project", "$WEBHOOK")
    with service(project, WEBHOOK=heard[0]) as started:
        yield started


def hold(up: Service) -> str:
    """Start a conversion that is held, and wait until it is at work: its source is new, so that no result is cached."""
    (up.project.folder / "slow.py").write_text(f"{_SLOW}# {uuid.uuid4().hex}\n")
    (up.project.folder / "held").unlink(missing_ok=True)
    (up.project.folder / "hold").touch()
    key = up.start_run("convert/slow")
    wait_for((up.project.folder / "held").exists, lambda: up.text)
    return key


def release(up: Service) -> None:
    (up.project.folder / "hold").unlink()


def process_of(up: Service, key: str) -> int:
    """The process of a flow run, as its claim says."""
    return int((up.project.folder / ".trtflow/claims" / key).read_text().split()[0])


@pytest.mark.slow
def test_it_says_what_it_started_and_where(up: Service) -> None:
    assert f"UI: http://127.0.0.1:{up.port}\n" in up.text
    assert "telemetry and calls to the outside are off" in up.text
    assert "serving 5 deployments" in up.text
    (automation,) = [found for found in up.ask("automations") if found["name"].startswith("dead runs of ")]
    assert (automation["trigger"]["posture"], automation["trigger"]["within"]) == ("Proactive", 90.0)


@pytest.mark.slow
def test_a_run_is_named_tagged_and_ends_in_the_state_of_its_outcome(up: Service) -> None:
    run = up.wait(up.start_run("convert/tiny"))
    record = up.project.record("tiny").outcome
    assert (run["state_type"], run["name"]) == ("COMPLETED", f"tiny · {run['id'][-6:]} · manual"), run["state"]
    assert {"tiny", "trtflow"} <= set(run["tags"])
    assert record.run.endswith(run["id"][-6:])
    assert record.promoted is not None
    assert record.promoted.reason == run["state"]["message"]


@pytest.mark.slow
def test_a_failed_gate_fails_the_run_and_tells_the_webhook(
    up: Service, heard: tuple[str, list[dict[str, Any]]]
) -> None:
    run = up.wait(up.start_run("convert/bad"))
    assert (run["state_type"], "top1_agreement" in run["state"]["message"]) == ("FAILED", True)
    wait_for(lambda: bool(heard[1]), lambda: up.text)
    assert {key: heard[1][0][key] for key in ("pipeline", "run", "state", "message", "flow_run_id")} == {
        "pipeline": "bad",
        "run": run["name"],
        "state": "Failed",
        "message": run["state"]["message"],
        "flow_run_id": run["id"],
    }
    assert "Traceback" not in up.text


@pytest.mark.slow
def test_gc_keeps_what_the_yaml_says(up: Service) -> None:
    (gc,) = up.ask("deployments", flows={"name": {"any_": ["gc"]}})
    assert [found["schedule"]["cron"] for found in gc["schedules"]] == ["0 4 * * *"]
    up.wait(up.start_run("convert/tiny"))
    run = up.wait(up.start_run(f"gc/{gc['name']}"))
    assert (run["state_type"], run["state"]["message"].startswith("freed")) == ("COMPLETED", True), run["state"]
    assert len(list((up.project.store / "tiny/runs").iterdir())) == 1


@pytest.mark.slow
def test_a_limit_on_a_tag_is_kept(up: Service) -> None:
    limit = up.post("v2/concurrency_limits/", {"name": "tag:reference", "limit": 1})
    up.ends(up.start_run("convert/tiny"), "COMPLETED")
    acquired = {"event": {"name": ["prefect.concurrency-limit.acquired"]}}

    def limited() -> set[str]:
        events = up.post("events/filter", {"filter": acquired})["events"]
        return {event["resource"]["prefect.resource.id"] for event in events}

    wait_for(lambda: limited() == {f"prefect.concurrency-limit.{limit['id']}"}, lambda: str(limited()), pause=0.5)


@pytest.mark.slow
def test_the_server_refuses_what_the_form_does_not_take(up: Service) -> None:
    for parameters in ({"precisions": ["fp9"]}, {"verify": "maybe"}, {"file": "x"}, {"metadata": 1}):
        with pytest.raises(httpx.HTTPStatusError, match="409"):
            up.start_run("convert/tiny", **parameters)


@pytest.mark.slow
def test_metadata_without_a_checkpoint_is_not_dropped(up: Service) -> None:
    run = up.ends(up.start_run("convert/tiny", metadata={"epoch": "1"}), "FAILED")
    assert run["state"]["message"].startswith("metadata is kept beside a checkpoint, and none is given")


@pytest.mark.slow
def test_a_second_one_and_a_port_in_use_are_refused(up: Service, tmp_path: Path) -> None:
    second = up.project.start("up", "--port", str(free_port()), before=("env", "WEBHOOK=http://127.0.0.1:9/"))
    _, said = second.communicate(timeout=60)
    assert (second.returncode, f"(process {up.process.pid})" in said) == (2, True), said
    told = ("env", "WEBHOOK=http://127.0.0.1:9/", f"PREFECT_API_URL={up.url}")
    third = up.project.start("up", "--data", str(tmp_path / "data"), before=told)
    _, said = third.communicate(timeout=60)
    assert (third.returncode, "another `trtflow up` serves" in said) == (2, True), said
    other = fresh(tmp_path / "other")
    finished = other.execute("up", "--port", str(up.port))
    assert finished.code == 2
    assert f"cannot listen at 127.0.0.1:{up.port}: a Prefect server 3." in finished.stderr
    assert f"PREFECT_API_URL={up.url}" in finished.stderr


@pytest.mark.slow
def test_a_run_whose_process_is_killed_has_crashed_and_the_next_one_passes(
    up: Service, heard: tuple[str, list[dict[str, Any]]]
) -> None:
    key = hold(up)
    os.kill(process_of(up, key), signal.SIGKILL)
    run = up.wait(key)
    assert (run["state_type"], "-9" in run["state"]["message"]) == ("CRASHED", True), run["state"]
    wait_for(lambda: [told["state"] for told in heard[1] if told["flow_run_id"] == key] == ["Crashed"], lambda: up.text)
    release(up)
    up.ends(up.start_run("convert/slow"), "COMPLETED")


@pytest.mark.slow
def test_a_server_that_is_killed_comes_back_and_the_run_goes_on(up: Service) -> None:
    key = hold(up)
    os.kill(up.server_process(), signal.SIGKILL)
    release(up)  # its next steps begin while there is no server
    wait_for(lambda: "the Prefect server is back" in up.text, lambda: up.text)
    up.ends(key, "COMPLETED")


@pytest.mark.slow
def test_a_crash_is_told_although_the_server_was_started_since_the_run_began(
    up: Service, heard: tuple[str, list[dict[str, Any]]]
) -> None:
    key = hold(up)
    restarted = up.text.count("the Prefect server is back")
    os.kill(up.server_process(), signal.SIGKILL)
    wait_for(lambda: up.text.count("the Prefect server is back") > restarted, lambda: up.text)
    os.kill(process_of(up, key), signal.SIGKILL)
    up.ends(key, "CRASHED")
    wait_for(lambda: [told["state"] for told in heard[1] if told["flow_run_id"] == key] == ["Crashed"], lambda: up.text)
    release(up)


@pytest.mark.slow
def test_a_run_that_cannot_be_claimed_has_crashed_and_is_not_at_work(up: Service) -> None:
    claims = up.project.folder / ".trtflow/claims"
    claims.rename(claims.with_name("aside"))
    claims.touch()  # so that nothing can be kept there
    (up.project.folder / "hold").touch()
    up.ends(up.start_run("convert/slow2"), "CRASHED")
    claims.unlink()
    claims.with_name("aside").rename(claims)
    release(up)
    up.ends(up.start_run("convert/slow2"), "COMPLETED")  # no other conversion of it holds its turn


@pytest.mark.slow
def test_a_pipeline_that_goes_while_it_runs_is_taken_away_behind_it(up: Service) -> None:
    file = up.project.folder / "pipelines.yaml"
    before = file.read_text()
    key = hold(up)
    config = yaml.safe_load(before)
    del config["pipelines"]["slow"]
    file.write_text(yaml.safe_dump(config))
    assert "= convert/slow: paused, a run of it is at work" in deployed(up)
    release(up)
    up.ends(key, "COMPLETED")
    assert "- convert/slow" in deployed(up)
    file.write_text(before)
    assert "+ convert/slow" in deployed(up)


def deployed(up: Service, project: Project | None = None) -> str:
    """What `trtflow deploy` says, of its own project if no other is named."""
    asked = (project or up.project).start(
        "deploy", before=("env", f"PREFECT_API_URL={up.url}", "WEBHOOK=http://127.0.0.1:9/")
    )
    out, err = asked.communicate(timeout=60)
    assert asked.returncode == 0, err
    return out


@pytest.mark.slow
def test_a_run_that_is_cancelled_ends_as_cancelled(up: Service) -> None:
    key = hold(up)
    pid = process_of(up, key)
    state = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
    up.post(f"flow_runs/{key}/set_state", state)
    up.ends(key, "CANCELLED")
    wait_for(lambda: not Path(f"/proc/{pid}").exists(), lambda: up.text)
    release(up)


@pytest.mark.slow
def test_after_a_kill_states_are_true_and_what_was_stopped_waits_to_go_on(up: Service, tmp_path: Path) -> None:
    killed = hold(up)
    up.process.kill()
    up.process.wait()
    wait_for(lambda: marked(up.project.mark) == {}, lambda: str(marked(up.project.mark)))

    with service(up.project, WEBHOOK="http://127.0.0.1:9/") as again:
        run = again.ends(killed, "CRASHED")
        assert "run it again, and the rest is done" in run["state"]["message"]
        release(again)
        again.ends(again.start_run("convert/slow"), "COMPLETED")
        steps = {step.step: step.cached for step in up.project.record("slow").outcome.steps}
        assert steps["inspect"]  # the only one that was done when it was killed
        other = fresh(tmp_path / "other")
        other.write(alone=SOURCE)
        assert "+ convert/alone" in deployed(again, other)
        (other.folder / "pipelines.yaml").unlink()
        stopped = [hold(again), again.start_run("convert/slow2")]
        again.wait(stopped[1], "RUNNING")
        os.kill(again.server_process(), signal.SIGKILL)  # it has to come back to hear of them
        assert again.stop() == 0, again.text
        assert marked(up.project.mark) == {}
        assert "2 runs stopped, to go on when `trtflow up` is started again" in again.text
    assert not [path for path in up.project.store.rglob(".*") if path.suffix in (".partial", ".lock")]
    with contextlib.closing(sqlite3.connect(up.project.folder / ".trtflow/prefect.db")) as database:
        question = "SELECT state_type, state_name FROM flow_run WHERE id IN (?, ?)"
        assert database.execute(question, stopped).fetchall() == [("SCHEDULED", "AwaitingRetry")] * 2

    go_on_elsewhere(up.project.folder, stopped)


def go_on_elsewhere(folder: Path, stopped: list[str]) -> None:
    """Move the project, and start it there."""
    moved = Project(folder.rename(folder.with_name("moved")))
    (moved.folder / "hold").unlink()
    with service(moved, WEBHOOK="http://127.0.0.1:9/") as elsewhere:
        wait_for(lambda: "~ convert/slow: tags, description, path\n" in elsewhere.text, lambda: elsewhere.text)
        for key in stopped:
            elsewhere.ends(key, "COMPLETED")
        assert elsewhere.get("deployments/name/convert/alone")  # of another YAML, which was not moved to here


def database_of(project: Project, revision: str) -> Path:
    database = project.folder / ".trtflow/prefect.db"
    database.parent.mkdir()
    with contextlib.closing(sqlite3.connect(database)) as made:
        made.execute("CREATE TABLE alembic_version (version_num TEXT)")
        made.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
        made.commit()
    return database


def test_a_database_of_a_newer_prefect_is_left_alone(new: Project) -> None:
    database = database_of(new, "feedfacecafe")
    before = database.read_bytes()
    finished = new.execute("up", "--port", str(free_port()))
    assert (finished.code, database.read_bytes()) == (2, before)
    assert f"the database {database} is of a newer Prefect than the 3." in finished.stderr


def test_a_file_that_is_no_database_is_left_alone(new: Project) -> None:
    database = database_of(new, "x")
    database.write_bytes(b"not SQLite" * 100)
    finished = new.execute("up", "--port", str(free_port()))
    assert (finished.code, "cannot be read" in finished.stderr) == (2, True), finished.stderr


def test_a_copy_is_kept_of_the_database_of_an_older_prefect(new: Project, capsys: pytest.CaptureFixture[str]) -> None:
    database = database_of(new, "9725c1cbee35")  # its first revision
    Server(database.parent, "127.0.0.1", free_port()).check()
    kept = database.with_name("prefect.db.9725c1cbee35")
    assert str(kept) in capsys.readouterr().err
    with contextlib.closing(sqlite3.connect(kept)) as copied:
        assert copied.execute("SELECT version_num FROM alembic_version").fetchall() == [("9725c1cbee35",)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--data", "~nobody-of-that-name/x"), "is no path"),
        (("--data", "pipelines.yaml"), "nothing can be kept in"),
        (("--data", "a?b"), "opens no database"),
        (("--port", "99999"), "the last one is 65535"),
        (("--host", "nowhere.invalid"), "there is no address 'nowhere.invalid'"),
        (("--host", "192.0.2.1"), "is no address of this machine"),
    ],
)
def test_a_place_that_is_none_is_told(new: Project, given: tuple[str, str], said: str) -> None:
    finished = new.execute("up", *given)
    assert (finished.code, said in finished.stderr) == (2, True), finished.stderr


def test_a_folder_of_the_users_keeps_its_gitignore(new: Project) -> None:
    (new.folder / ".gitignore").write_text("secret.key\n")
    told = ("env", "PREFECT_API_URL=http://me:hidden@127.0.0.1:9/api")
    finished = new.execute("up", "--data", ".", before=told)
    assert (finished.code, "hidden" in finished.stderr) == (1, False), finished.stderr
    assert "the Prefect API at http://127.0.0.1:9/api does not answer" in finished.stderr
    assert (new.folder / ".gitignore").read_text() == "secret.key\n"


def test_a_data_folder_that_takes_nothing_is_told(new: Project) -> None:
    (new.folder / ".trtflow" / "up.lock").mkdir(parents=True)
    finished = new.execute("up")
    assert (finished.code, "nothing can be kept in" in finished.stderr) == (2, True), finished.stderr


def test_a_password_that_the_server_cannot_read_is_told(new: Project) -> None:
    finished = new.execute(
        "up", before=("env", "PREFECT_SERVER_API_AUTH_STRING=me:s\N{LATIN SMALL LETTER E WITH ACUTE}")
    )
    assert (finished.code, "not ASCII" in finished.stderr) == (2, True), finished.stderr


def test_an_api_that_is_no_address_is_told(new: Project) -> None:
    finished = new.execute("up", before=("env", "PREFECT_API_URL=http://[::1"))
    assert (finished.code, "is no address of a Prefect API" in finished.stderr) == (2, True), finished.stderr


def test_a_webhook_whose_variable_is_not_set_is_told_before_anything_starts(tmp_path: Path) -> None:
    project = project_in(tmp_path / "project", "$NOWHERE")
    finished = project.execute("up", "--port", str(free_port()))
    assert (finished.code, "NOWHERE is not set" in finished.stderr) == (2, True), finished.stderr
    assert not (project.folder / ".trtflow").exists()
