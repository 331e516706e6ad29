"""`trtflow deploy` and `trtflow run` against a real Prefect API with a password."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.core.outcome import RunOutcome
from tests.commands import BAD, SOURCE, TINY, fresh
from tests.prefect_database import Database
from tests.projects import Finished, Project
from tests.services import Service, service, wait_for

LOGIN = "me:secret"
STEPS = {
    *("inspect", "data", "export", "fold", "judge · exported", "judge · folded", "quantize · fp32", "judge · fp32"),
    *("build · onnxruntime/fp32", "parity · onnxruntime/fp32", "range · onnxruntime/fp32"),
    *("build · twin/fp32", "parity · twin/fp32", "range · twin/fp32"),
    *("facts", "benchmark", "promote"),
    *(f"charts · {name}" for name in ("hops", "latency", "pareto", "history")),
}
TWIN = {"engines": [{"runtime": "onnxruntime"}, {"runtime": "reference", "name": "twin"}]}
GATE = {"gates": {"parity": {"onnxruntime/fp32": BAD["gates"]["parity"]["fp32"]}}}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[Service]:
    """The server of a project of its own."""
    project = fresh(tmp_path_factory.mktemp("api") / "project")
    database.put(project.folder / ".trtflow")
    with service(
        project,
        PREFECT_SERVER_API_AUTH_STRING=LOGIN,
        PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS="1",
    ) as started:
        yield started


def deploy(project: Project, url: str, *arguments: str, login: str = LOGIN) -> Finished:
    told = ("env", f"PREFECT_API_URL={url}", f"PREFECT_API_AUTH_STRING={login}")
    process = project.start("deploy", *arguments, before=told)
    stdout, stderr = process.communicate(timeout=120)  # its `up` may be at work beside it
    assert "Traceback" not in stderr, stderr
    return Finished(process.returncode, stdout, stderr)


def titles(api: Service, project: Project) -> dict[str, dict[str, Any]]:
    """Our deployments by name."""
    found = api.ask("deployments")
    return {each["name"]: each for each in found if each["path"] == str(project.folder / "pipelines.yaml")}


@pytest.mark.slow
def test_it_creates_changes_and_removes_and_nothing_the_second_time(api: Service, new: Project) -> None:
    nightly = {**SOURCE, "schedule": {"cron": "30 2 * * mon-fri", "timezone": "Europe/Paris"}, "on_retrain": True}
    new.write(one=nightly, two=SOURCE)
    dry = deploy(new, api.url, "--dry-run", "--json")
    assert [change["title"] for change in json.loads(dry.stdout)["changes"]][:2] == ["convert/one", "convert/two"]
    assert not titles(api, new)

    assert deploy(new, api.url).code == 0
    made = titles(api, new)
    assert set(made) == {"one", "two"}
    schedule = made["one"]["schedules"][0]["schedule"]
    assert (schedule["cron"], schedule["timezone"]) == ("30 2 * * mon-fri", "Europe/Paris")
    assert made["one"]["global_concurrency_limit"]["limit"] == 1
    assert made["one"]["enforce_parameter_schema"]
    assert deploy(new, api.url).stdout == "nothing to change: the API has all of it\n"
    assert {name: found["updated"] for name, found in titles(api, new).items()} == {
        name: found["updated"] for name, found in made.items()
    }

    new.write(one={**nightly, "on_retrain": False, "schedule": {"cron": "0 4 * * *"}}, three=SOURCE)
    said = deploy(new, api.url).stdout.splitlines()
    assert said[:2] == ["+ convert/three", "~ convert/one: schedules"]
    assert {"- convert/two", "- convert/one on model.retrained"} <= set(said)
    assert titles(api, new)["one"]["id"] == made["one"]["id"]
    assert deploy(new, api.url, "--remove").code == 0
    assert not titles(api, new)
    assert "tiny" in {found["name"] for found in api.ask("deployments")}  # of the other YAML


@pytest.mark.slow
def test_what_somebody_paused_stays_paused(api: Service, new: Project) -> None:
    new.write(paused={**SOURCE, "schedule": {"cron": "0 3 * * *"}})
    deploy(new, api.url)
    key = titles(api, new)["paused"]["id"]
    api.post(f"deployments/{key}/pause_deployment", None)
    new.write(paused={**SOURCE, "schedule": {"cron": "0 4 * * *"}})
    assert "~ convert/paused: schedules" in deploy(new, api.url).stdout
    assert titles(api, new)["paused"]["paused"]
    deploy(new, api.url, "--remove")


@pytest.mark.slow
def test_the_deployment_of_another_yaml_is_not_taken_over(api: Service, new: Project) -> None:
    new.write(fine=SOURCE, tiny=SOURCE)
    finished = deploy(new, api.url)
    assert finished.code == 2
    assert f"convert/tiny already, made by {api.project.folder}/pipelines.yaml" in finished.stderr
    assert not titles(api, new)


@pytest.mark.slow
def test_what_is_deployed_while_it_is_up_is_served(api: Service) -> None:
    """A cron fires for real: in one of the next three minutes, however long it takes to deploy it."""
    minutes = ",".join(str((time.gmtime().tm_min + more) % 60) for more in (1, 2, 3))
    text = (api.project.folder / "pipelines.yaml").read_text()
    api.project.write(tiny=SOURCE, punctual={**SOURCE, "schedule": {"cron": f"{minutes} * * * *"}})
    try:
        assert deploy(api.project, api.url).code == 0
        runs: list[dict[str, Any]] = []

        def ended() -> bool:
            question = {"state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}}}
            runs[:] = api.ask("flow_runs", flow_runs=question, deployments={"name": {"any_": ["punctual"]}})
            return bool(runs)

        wait_for(ended, lambda: api.text, seconds=180)
        assert runs[0]["state_type"] == "COMPLETED", runs[0]["state"]
        assert runs[0]["name"] == f"punctual · {runs[0]['id'][-6:]} · scheduled"
    finally:
        (api.project.folder / "pipelines.yaml").write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize("command", [("deploy",), ("run", "tiny")])
def test_a_wrong_password_is_refused(api: Service, done: Project, command: tuple[str, ...]) -> None:
    told = ("env", f"PREFECT_API_URL={api.url}", "PREFECT_API_AUTH_STRING=me:wrong")
    finished = done.execute(*command, before=told)
    assert (finished.code, finished.stdout) == (2, "")
    assert f"the Prefect API at {api.url} does not let us in (401)" in finished.stderr
    assert "PREFECT_API_AUTH_STRING=user:password" in finished.stderr


def test_a_server_that_is_down_is_named_and_how_to_do_without(new: Project) -> None:
    finished = deploy(new, "http://127.0.0.1:9/api")
    assert (finished.code, finished.stdout) == (1, "")
    assert "the Prefect API at http://127.0.0.1:9/api does not answer" in finished.stderr
    assert "unset PREFECT_API_URL: `trtflow run` needs no server" in finished.stderr


def test_without_a_configured_api_it_says_how_to_have_one(new: Project) -> None:
    finished = new.execute("deploy")
    assert (finished.code, "start a server of your own: trtflow up" in finished.stderr) == (2, True)


@contextmanager
def answering(text: str) -> Iterator[str]:
    """A server that says one thing, whatever it is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("answer", "code", "told"),
    [
        ('"2.20.4"', 2, "is 2.20.4, older than the 3."),
        ('"4.0.0"', 2, "is 4.0.0, newer than the 3."),
        ("<html>", 1, "not as Prefect does; the address ends in /api"),
    ],
)
def test_a_server_that_does_not_fit_is_refused(new: Project, answer: str, code: int, told: str) -> None:
    with answering(answer) as url:
        finished = deploy(new, url)
    assert (finished.code, told in finished.stderr) == (code, True), finished.stderr


@pytest.mark.parametrize("cron", ["61 * * * *", "* 24 * * *", "* * * foo *", "5-1 * * * *", "*/0 * * * *", "* * 0 * *"])
def test_a_cron_that_no_server_takes_is_an_error_of_the_yaml(new: Project, cron: str) -> None:
    new.write(tiny={**SOURCE, "schedule": {"cron": cron}})
    finished = deploy(new, "http://127.0.0.1:9/api")
    assert (finished.code, "pipelines.tiny.schedule.cron" in finished.stderr) == (2, True), finished.stderr


def test_paths_of_projects_are_not_mixed_up(tmp_path: Path) -> None:
    from flows.deployments import Owner

    owners = {Owner(tmp_path / name / "pipelines.yaml").tag for name in ("a", "b")}
    assert len(owners) == 2
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert Owner(tmp_path / "link/pipelines.yaml").tag in owners


def flow_run(api: Service, name: str) -> dict[str, Any]:
    (found,) = api.ask("flow_runs", flow_runs={"name": {"any_": [name]}})
    return found


def task_runs(api: Service, flow: dict[str, Any], count: int) -> dict[str, dict[str, Any]]:
    """The task runs of a flow run by name: the server hears of their ends a little later than the client."""
    found: dict[str, dict[str, Any]] = {}

    def heard() -> bool:
        found.update((run["name"], run) for run in api.ask("task_runs", flow_runs={"id": {"any_": [flow["id"]]}}))
        return sum(bool(run["end_time"]) for run in found.values()) >= count

    wait_for(heard, lambda: str(sorted(found)), pause=0.3)
    return found


@pytest.mark.slow
def test_a_real_server_sees_the_flow_and_each_step(api: Service, done: Project, tmp_path: Path) -> None:
    project = done  # most steps are cached: what they make is not the point
    project.write(tiny={**TINY, **TWIN}, bad={**BAD, **TWIN, **GATE})
    told = ("env", f"PREFECT_API_URL={api.url}", f"PREFECT_API_AUTH_STRING={LOGIN}", f"PREFECT_HOME={tmp_path}")

    finished = project.run("run", "--json", before=told)
    assert finished.code == 1, finished.stderr
    _check_what_passed(api, finished.runs["tiny"])
    _check_what_failed(api, finished.runs["bad"])


def _check_what_passed(api: Service, run: RunOutcome) -> None:
    assert run.status == "passed"
    flow = flow_run(api, f"tiny · {run.run[-6:]} · manual")
    assert run.promoted is not None
    assert (flow["state_type"], flow["state"]["message"]) == ("COMPLETED", run.promoted.reason)
    assert flow["tags"] == ["fp32", "onnxruntime", "reference", "tiny"]
    steps = task_runs(api, flow, len(STEPS))
    assert set(steps) == STEPS
    assert {step["state_type"] for step in steps.values()} == {"COMPLETED"}
    assert set(steps["build · onnxruntime/fp32"]["tags"]) == {"tiny", "onnxruntime", "fp32"}
    assert set(steps["parity · twin/fp32"]["tags"]) == {"tiny", "twin", "reference", "fp32"}
    needed = {given["id"] for given in steps["fold"]["task_inputs"]["values"]}
    assert needed == {steps["data"]["id"], steps["export"]["id"]}


def _check_what_failed(api: Service, run: RunOutcome) -> None:
    assert [engine.status for engine in run.engines] == ["failed", "passed"]
    flow = flow_run(api, f"bad · {run.run[-6:]} · manual")
    assert flow["state_type"] == "FAILED"
    assert flow["state"]["message"] == f"onnxruntime/fp32: {run.engines[0].reason}"
    # A single result that was timed has no front, and a first measurement no history. Its model has no dims.
    missing = {"promote", "charts · pareto", "charts · history", "range · onnxruntime/fp32", "range · twin/fp32"}
    steps = task_runs(api, flow, len(STEPS - missing))
    assert set(steps) == STEPS - missing
    assert {step["state_type"] for step in steps.values()} == {"COMPLETED"}
