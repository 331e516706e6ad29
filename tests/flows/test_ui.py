"""The Prefect UI in a real browser: what it shows of runs, and that nothing of it leaves the machine."""

import functools
import io
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.core.outcome import RunOutcome
from tests.browser import Tab, opened
from tests.commands import SOURCE, TORCH, fresh, fresh_torch
from tests.loopback import http
from tests.outside import Outside, witnessed
from tests.pages import browser
from tests.prefect_database import Database
from tests.projects import Project
from tests.services import Service, starting

# One result is promoted; the other is refused by a gate that it cannot pass, which fails nothing.
NET = {
    **SOURCE,
    "data": TORCH["data"],
    "engines": [{"runtime": "onnxruntime"}],
    "precisions": ["fp32", {"fp16": {"optional": True}}],
    "gates": {"parity": {"fp16": {"rel_l2": 1e-12}}},
}
COMPLETED = (33, 157, 75)  # the green of a step that is done


@dataclass(frozen=True)
class World:
    """A server that was told of two runs of `net`: one that passed, and one whose model was damaged."""

    server: Service
    outside: Outside
    project: Project
    reports: str
    flow_runs: tuple[dict[str, Any], dict[str, Any]]
    runs: tuple[RunOutcome, RunOutcome]

    def known(self) -> list[str]:
        """What tabs may ask."""
        return [self.server.address.removeprefix("http://"), self.reports.removeprefix("http://")]

    def artifact(self, index: int, kind: str) -> dict[str, Any]:
        """The artifact of a kind that a run left."""
        wanted = {"flow_run_id": {"any_": [self.flow_runs[index]["id"]]}, "type": {"any_": [kind]}}
        (found,) = self.server.ask("artifacts", artifacts=wanted)
        return found


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder, as a team may serve its store."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
            del format, args

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, database: Database) -> Iterator[World]:
    browser()  # skips where there is none, before anything is started
    folder = tmp_path_factory.mktemp("ui") / "project"
    fresh(folder)
    project = fresh_torch(folder)
    project.write(net=NET)
    with ExitStack() as stack:
        outside = stack.enter_context(witnessed())
        reports = stack.enter_context(served(project.store))
        data = tmp_path_factory.mktemp("data")
        database.put(data)
        environment = {"TRTFLOW_REPORTS_URL": reports, **outside.environment}
        server = stack.enter_context(starting(project, "--data", str(data), TMPDIR=str(data), **environment))
        # While the server starts: a history has two measurements. What `up` has running is not left over by this.
        untold = Project(folder).run("run", "net", "--json")
        assert untold.code == 0, untold.stderr
        server.serving()
        passed = server.convert("net", rebenchmark=True)
        record = project.record("net")
        (folder / "linear.onnx").write_bytes(b"damaged")
        failed = server.convert("net")
        assert (passed["state_type"], failed["state_type"]) == ("COMPLETED", "FAILED"), server.told
        yield World(
            *(server, outside, project, reports),
            (passed, failed),
            (record.outcome, project.record("net").outcome),
        )


@pytest.fixture(scope="module")
def window() -> Iterator[Tab]:
    with opened(browser()) as tab:
        yield tab


@pytest.fixture
def tab(world: World, window: Tab) -> Iterator[Tab]:
    """The tab; at the end of each test nothing has left the machine, neither from the pages nor from the server."""
    yield window
    assert window.strangers(*world.known()) == []
    assert world.outside.asked == []
    assert window.errors == []


def count(picture: bytes, colour: tuple[int, int, int]) -> int:
    """How many pixels have a colour, or nearly."""
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        distance = np.abs(np.asarray(image.convert("RGB"), dtype=np.int16) - np.array(colour)).max(axis=-1)
    return int((distance < 12).sum())


def test_who_would_leave_the_machine_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    worker = "new Worker(URL.createObjectURL(new Blob([`fetch('http://worker.invalid/b')`])))"
    page.write_text(f"<img src='http://page.invalid/a'><script>{worker}</script>")
    with served(tmp_path) as address, opened(browser()) as tab:
        tab.go(f"{address}/page.html")
        tab.until("document.readyState === 'complete'")
        tab.rest(0.5)
        tab.text()  # hears of what was asked meanwhile
        seen = tab.strangers(address.removeprefix("http://"))
    assert seen == ["http://page.invalid/a", "http://worker.invalid/b"]
    with witnessed() as outside:
        ask = "import httpx; httpx.get('http://server.invalid/c')"
        subprocess.run([sys.executable, "-c", ask], env=outside.environment, capture_output=True, check=False)
        assert outside.asked == ["GET http://server.invalid/c HTTP/1.1"]


@pytest.mark.slow
def test_the_dashboard_counts_the_runs(world: World, tab: Tab) -> None:
    tab.go(f"{world.server.address}/dashboard")
    shown = tab.show("Flow Runs 2 total", "Task Runs")
    assert "V2 UI" not in shown  # it asks a host of its makers
    assert http().get(f"{world.server.address}/ui-settings").json()["available_uis"] == ["v1"]


@pytest.mark.slow
def test_a_run_has_its_name_tags_graph_and_a_line_for_each_step(world: World, tab: Tab) -> None:
    flow, run = world.flow_runs[0], world.runs[0]
    assert {"net", "fp32", "fp16", "onnxruntime", "trtflow"} <= set(flow["tags"])
    tab.go(f"{world.server.address}/runs/flow-run/{flow['id']}")
    shown = tab.show(f"net · {run.run[-6:]} · manual", "Deployment net", "Completed", "cached net export: net/export/")
    assert re.search(r"cached net parity onnxruntime/fp32: error [\d.e-]+ · net/parity/\w+", shown)
    assert re.search(r"[\d.]+ s net benchmark: onnxruntime/fp32 [\d.]+ ms at batch 2", shown)
    assert re.search(r"cached net build onnxruntime/fp16: \d+ bytes · ", shown)
    assert run.promoted is not None
    assert f"s net promote: {run.promoted.id}: {run.promoted.reason}" in shown
    tab.until("!!document.querySelector('canvas')")
    for _ in range(60):  # it is laid out, then drawn
        if (drawn := count(tab.pixels(), COMPLETED)) > 2000:
            break
    assert drawn > 2000, "the graph shows no step that is done"


@pytest.mark.slow
def test_the_table_of_a_run_has_every_result(world: World, tab: Tab) -> None:
    artifact = world.artifact(0, "table")
    assert [row["engine"] for row in json.loads(artifact["data"])] == ["onnxruntime/fp32", "onnxruntime/fp16"]
    tab.go(f"{world.server.address}/artifacts/artifact/{artifact['id']}")
    tab.show(
        "engine verdict size error metric at p50 ms", "onnxruntime/fp32 promoted", "onnxruntime/fp16 failed", "batch 2"
    )


@pytest.mark.slow
def test_the_text_of_a_run_says_why_and_leads_to_the_report(world: World, tab: Tab) -> None:
    artifact, run = world.artifact(0, "markdown"), world.runs[0]
    tab.go(f"{world.server.address}/artifacts/artifact/{artifact['id']}")
    refused = f"onnxruntime/fp16 failed: {run.engines[1].reason} (to see why: trtflow show net --where"
    tab.show("net: passed", "Promoted: onnxruntime/fp32", "In force: onnxruntime/fp32", refused)
    page = world.project.store / "net" / "runs" / run.run / "report.html"
    assert page.is_file()
    assert str(page) in tab.text()
    tab.go(tab.until("[...document.links].map(link => link.href).find(address => address.endsWith('/report.html'))"))
    tab.show("What is promoted, and why?", run.run)


@pytest.mark.slow
def test_the_charts_of_a_run_show_offline(world: World, tab: Tab) -> None:
    artifact = world.artifact(0, "markdown")
    titles = re.findall(r"!\[(.*?)\]\(data:image/svg\+xml;base64,", artifact["data"])
    assert {"Median ms at batch 2, by time", "Metric, by time"} <= set(titles)
    tab.go(f"{world.server.address}/artifacts/artifact/{artifact['id']}")
    tab.show("Where the error was made", "Latency distributions", "History")
    images = tab.until(
        "(() => { const all = [...document.images].filter(image => image.src.startsWith('data:image/svg+xml;base64,'));"
        " return all.every(image => image.complete) && all.map(image => [image.alt, image.naturalWidth]) })()"
    )
    assert [title for title, _ in images] == titles
    assert all(width > 300 for _, width in images)


@pytest.mark.slow
def test_a_run_that_failed_early_says_why(world: World, tab: Tab) -> None:
    (step,) = (each for each in world.server.ask("task_runs", flow_runs={"id": {"any_": [world.flow_runs[1]["id"]]}}))
    assert step["state_type"] == "FAILED"
    tab.go(f"{world.server.address}/artifacts/artifact/{world.artifact(1, 'markdown')['id']}")
    tab.show("net: failed", "Failed: ", "onnxruntime/fp32 error: linear.onnx is not a whole ONNX model")


@pytest.mark.slow
def test_a_pipeline_has_one_key_under_which_its_runs_are_browsed(world: World, tab: Tab) -> None:
    tab.go(f"{world.server.address}/artifacts")
    tab.show("1 Artifact", "trtflow-net")
    tab.go(f"{world.server.address}/artifacts/key/trtflow-net")
    tab.show(*(run["name"] for run in world.flow_runs))


@pytest.mark.slow
def test_the_form_of_a_deployment_refuses_a_bad_value(world: World, tab: Tab) -> None:
    deployment = world.server.get("deployments/name/convert/net")
    wanted = {"id": {"any_": [deployment["id"]]}}
    runs = len(world.server.ask("flow_runs", deployments=wanted))
    metadata = (
        "[...document.querySelectorAll('.schema-form-property')].find("
        "property => property.innerText.startsWith('metadata')).querySelector('textarea')"
    )
    tab.go(f"{world.server.address}/deployments/deployment/{deployment['id']}/run")
    tab.show("checkpoint", "metadata", "rebenchmark", "Submit")
    tab.write(metadata, '["a"]', instead=True)
    tab.click("document.querySelector('button[type=submit]')")
    tab.show("['a'] is not of type 'object'")
    assert len(world.server.ask("flow_runs", deployments=wanted)) == runs
    tab.write(metadata, '{"epoch": "3"}', instead=True)
    tab.click("document.querySelector('button[type=submit]')")
    tab.until("!location.pathname.endsWith('/run')")
    made = world.server.ask("flow_runs", deployments=wanted, sort="ID_DESC")
    assert [run["parameters"].get("metadata") for run in made].count({"epoch": "3"}) == 1
