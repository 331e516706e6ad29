"""The page of a run and of a pipeline: what they answer, that they need nothing else, and that they fit a phone."""

import json
import re
import shutil
from pathlib import Path

import pytest

from flows.evidence import evidence
from flows.pages.run_page import run_page
from tasks.core.outcome import RunRecord
from tasks.core.promotions import Promotions
from tasks.core.store import Store
from tasks.core.yaml_source import load_config
from tests.commands import TINY, Call, fresh
from tests.pages import Page, browsed
from tests.projects import QUICK, Project, wait_until

pytestmark = pytest.mark.slow

LARGEST_BYTES = 2_000_000
# Of two results one is refused: three axes are no logits, so that no class is the first.
JUDGED = {
    "model": {"onnx": "cube.onnx"},
    **QUICK,
    "precisions": ["fp32", {"fp32": {"name": "strict", "optional": True}}],
    "gates": {"parity": {"strict": {"top1_agreement": 1.0}}},
}
HOSTILE = '<script>alert(1)</script> $x$ & "ümlaut" \u2028 <img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def judged_once(tmp_path_factory: pytest.TempPathFactory) -> Project:
    project = fresh(tmp_path_factory.mktemp("judged") / "project")
    project.write(judged=JUDGED)
    assert project.run("run", "judged").code == 0
    return project


@pytest.fixture
def judged(judged_once: Project, tmp_path: Path) -> Project:
    shutil.copytree(judged_once.folder, tmp_path / "project")
    return Project(tmp_path / "project")


def page_of(project: Project, name: str) -> Path:
    return max((project.store / name / "runs").glob("*/report.html"))


def check_alone(path: Path) -> Page:
    """It is whole HTML, small, and loads nothing."""
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < LARGEST_BYTES
    assert not re.search(r"https?://", text)
    page = Page.read(path)
    assert page.unbalanced == []
    assert "script" not in page.tags
    assert all(re.match(r"#|data:,$|runs/|\.\./\.\./index\.html$", address) for address in page.addresses)
    return page


def test_the_page_answers_the_five_questions(judged_once: Project) -> None:
    record = judged_once.record("judged")
    page = check_alone(page_of(judged_once, "judged"))
    promoted = record.outcome.promoted
    assert promoted is not None
    assert f"What is promoted, and why? ★ {promoted.id} {promoted.reason}" in page.text
    assert "How much faster than the source framework? onnxruntime/fp32 takes" in page.text
    assert "the source framework was not timed: switched off" in page.text
    (refused,) = (engine for engine in record.outcome.engines if engine.status == "failed")
    assert f"What was refused, and why? {refused.id} ✕ refused {refused.reason}" in page.text
    assert "trtflow show judged --where onnxruntime/strict" in page.text
    assert "Where is the error made?" in page.text
    assert f"How do I get the same run? {record.environment.cpu}" in page.text
    assert "pip install -c constraints.txt -e . the exact versions, in a checkout of trtflow" in page.text
    assert "trtflow run judged --rebenchmark measure the latencies anew" in page.text
    assert "onnxruntime/fp32 passed: relative L2 error 0" in page.text  # of the refused one's kind
    assert f"In force onnxruntime/fp32 ({promoted.key[:12]})" in page.text


def test_the_page_tells_of_the_model_the_timeline_the_surroundings_and_the_commands(judged_once: Project) -> None:
    record = judged_once.record("judged")
    page = Page.read(page_of(judged_once, "judged"))
    for section in ("Engines", "Where the error was made, hop by hop", "Latency", "Model", "Timeline", "Environment"):
        assert section in page.text
    assert "parameters 0" in page.text
    assert "FLOPs 0" in page.text
    assert "Not counted: 1 Relu" in page.text
    assert record.environment.cpu in page.text
    assert f"trtflow repro {record.outcome.engines[0].artifact}" in page.text
    for entry in record.timeline:
        assert f"{entry.step} {entry.subject}".strip() in page.text
    assert page_of(judged_once, "judged").read_text().count('<svg viewBox="') == 2  # hops, and latencies at one point


def test_the_timeline_says_what_ran_when(judged_once: Project) -> None:
    record = judged_once.record("judged")
    assert len(record.timeline) == len(record.outcome.steps)
    found = {(entry.step, entry.subject): entry for entry in record.timeline}
    assert found["export", ""].start + found["export", ""].seconds <= found["fold", ""].start + 0.01
    assert all(entry.start + entry.seconds <= record.outcome.seconds + 0.1 for entry in record.timeline)
    assert {entry.artifact for entry in record.timeline if entry.artifact} == set(record.artifacts)


def test_a_record_of_before_the_timeline_has_a_page_too(judged: Project, call: Call) -> None:
    path = page_of(judged, "judged").with_name("run.json")
    older = json.loads(path.read_text())
    del older["timeline"]
    path.write_text(json.dumps(older))
    assert call(judged, "report", "judged").code == 0
    assert "✕ refused" in check_alone(page_of(judged, "judged")).text


def test_what_others_wrote_is_shown_as_text(judged: Project) -> None:
    record = judged.record("judged")
    engine = record.outcome.engines[1].model_copy(update={"reason": HOSTILE})
    outcome = record.outcome.model_copy(update={"engines": (record.outcome.engines[0], engine)})
    hostile = record.model_copy(update={"outcome": outcome, "notes": (HOSTILE,), "failure": HOSTILE})
    config = load_config(judged.folder / "pipelines.yaml").pipelines["judged"]
    store = Store(judged.store, judged.folder)
    path = judged.folder / "hostile.html"
    path.write_text(run_page(store, evidence(judged.store, hostile), config, None), encoding="utf-8")
    page = Page.read(path)
    assert "script" not in page.tags
    assert page.text.count("<script>alert(1)</script> $x$") >= 3
    assert "onerror=alert(1)>" in page.text


def test_a_run_in_which_nothing_changed_draws_nothing(judged: Project) -> None:
    ran = judged.run("run", "judged")
    assert ran.code == 0
    assert "charts" not in ran.stderr
    record = judged.record("judged")
    assert {entry.cached for entry in record.timeline if entry.step == "charts"} == {True}
    assert f"report: {page_of(judged, 'judged')}" in ran.stdout
    assert "cached" in Page.read(page_of(judged, "judged")).text


def test_a_failed_run_has_a_page_that_says_why(once: Project) -> None:
    page = check_alone(page_of(once, "bad"))
    assert "✕ failed" in page.text
    assert "Nothing by this run" in page.text
    assert "top1_agreement has a bound" in page.text


def test_a_run_that_reached_nothing_has_a_page(new: Project) -> None:
    (new.folder / "linear.onnx").write_bytes(b"no model")
    assert new.run("run", "tiny").code == 1
    page = check_alone(page_of(new, "tiny"))
    assert "linear.onnx is not a" in page.text
    assert "not reached" in page.text
    assert "✕ failed" in check_alone(new.store / "tiny" / "index.html").text


def test_an_interrupted_run_has_a_page_without_charts(new: Project) -> None:
    new.write(tiny={**TINY, "benchmark": {"seconds": 60, "baselines": False}})
    process = new.start("run", "tiny")
    wait_until(lambda: any((new.store / "tiny" / "benchmark").glob(".*.partial")), process)
    process.terminate()
    assert new.finish(process).code == 143
    page = check_alone(page_of(new, "tiny"))
    assert "‖ interrupted" in page.text
    assert "nothing: the run was interrupted" in page.text
    assert "svg" not in page.tags


def test_the_page_of_a_pipeline_lists_its_runs_and_what_was_promoted(done: Project, call: Call) -> None:
    assert "There is one measurement so far" in check_alone(done.store / "tiny" / "index.html").text
    assert call(done, "run", "tiny", "--rebenchmark").code == 0
    page = check_alone(done.store / "tiny" / "index.html")
    assert "svg" in page.tags
    assert page.text.count("✓ passed") == 2
    assert len([address for address in page.addresses if address.startswith("runs/")]) == 2
    for address in page.addresses:
        assert not address.startswith("runs/") or (done.store / "tiny" / address).is_file()
    assert call(done, "rollback", "tiny", "--reason", HOSTILE).code == 0
    page = check_alone(done.store / "tiny" / "index.html")
    assert "What is in force? nothing" in page.text
    assert "▼ rollback by hand" in page.text
    assert "<script>alert(1)</script>" in page.text
    assert "trtflow report tiny does it" in page.text  # a rollback does not wait for a chart
    assert call(done, "report", "tiny").code == 0
    text = (done.store / "tiny" / "index.html").read_text()
    assert "rolled back to nothing" in text


def test_report_makes_the_page_of_any_run_anew(done: Project, call: Call) -> None:
    path = page_of(done, "tiny")
    before = path.read_text()
    path.unlink()
    run = done.record("tiny").outcome.run
    told = call(done, "report", "tiny", "--run", run[:20], "--json")
    assert told.json == {
        "pipeline": "tiny",
        "run": run,
        "report": str(path),
        "index": str(done.store / "tiny" / "index.html"),
    }
    assert path.read_text() == before
    shutil.rmtree(done.store / "tiny" / "charts")
    assert call(done, "report", "tiny").code == 0  # drawn again
    assert path.read_text() == before


def test_report_of_what_is_not_there_says_what_is(new: Project, once: Project, call: Call) -> None:
    said = call(new, "report", "tiny")
    assert (said.code, "tiny was never run" in said.err) == (1, True)
    said = call(once, "report", "tiny", "--run", "1999")
    assert said.code == 2
    assert once.record("tiny").outcome.run in said.err
    assert call(once, "report", "tny").code == 2


def test_what_the_store_no_longer_holds_is_missing_and_said(done: Project, call: Call) -> None:
    for step in ("charts", "benchmark", "parity", "facts", "export"):
        shutil.rmtree(done.store / "tiny" / step)
    assert call(done, "report", "tiny").code == 0
    page = check_alone(page_of(done, "tiny"))
    assert "★ onnxruntime/fp32" in page.text
    assert "hop by hop" in page.text  # what the record itself holds of it


def test_a_chart_that_cannot_be_drawn_is_told_and_fails_nothing(done: Project, call: Call) -> None:
    shutil.rmtree(done.store / "tiny" / "charts")
    (done.store / "tiny" / "charts").write_text("in the way")
    said = call(done, "run", "tiny")
    assert said.code == 0, said.err
    assert "the report lacks the chart 'latency'" in said.err
    page = check_alone(page_of(done, "tiny"))
    assert "The chart “Latency distributions” is missing" in page.text


def test_show_says_the_same_in_short(judged_once: Project, call: Call) -> None:
    text = call(judged_once, "show", "judged").out
    assert "promoted: onnxruntime/fp32: best latency_p50_ms" in text
    assert "speed: onnxruntime/fp32 takes" in text
    assert "error: onnxruntime/fp32: it has no error" in text
    assert "to see why onnxruntime/strict was refused: trtflow show judged --where onnxruntime/strict" in text
    assert "the same again: trtflow run judged" in text
    assert f"report: {page_of(judged_once, 'judged')}" in text


def test_who_signed_a_promotion_is_told_where_promotions_are_signed(done: Project) -> None:
    from flows.story import in_force

    (record,) = Promotions(done.store, "tiny").records()
    assert "signed" not in in_force(record)


@pytest.mark.parametrize("width", [500, 1280])
@pytest.mark.parametrize("name", ["run", "index"])
def test_a_browser_opens_it_offline_and_nothing_sticks_out(
    judged_once: Project, tmp_path: Path, name: str, width: int
) -> None:
    path = page_of(judged_once, "judged") if name == "run" else judged_once.store / "judged" / "index.html"
    text = path.read_text(encoding="utf-8")
    measure = (
        "<script>document.documentElement.setAttribute('data-found', [innerWidth,"
        " document.documentElement.scrollWidth, getComputedStyle(document.body).fontSize].join(' '))</script>"
    )
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)  # which lets no script run
    (tmp_path / "page.html").write_text(text.replace("</body>", f"{measure}</body>"), encoding="utf-8")
    opened = browsed(tmp_path / "page.html", tmp_path / "profile", width)
    found = re.search(r'data-found="(\d+) (\d+) (\S+)"', opened)
    assert found, opened[:2000]
    assert int(found[1]) == width
    assert int(found[2]) <= width
    assert found[3] == "15px"  # its style sheet is in force


def test_records_of_older_versions_load() -> None:
    assert RunRecord.model_fields["timeline"].default == ()


def test_the_nodes_that_add_most_error_are_named_once_somebody_looked(new: Project, call: Call) -> None:
    new.write(half={**TINY, "precisions": ["fp16"]})
    assert new.run("run", "half").code == 0
    name = "casting (precision hop)"
    assert name in Page.read(page_of(new, "half")).text
    assert "(most at" not in Page.read(page_of(new, "half")).text
    assert call(new, "show", "half", "--where", "onnxruntime/fp16").code == 0
    assert call(new, "report", "half").code == 0
    assert re.search(
        r"casting \(precision hop\) \S+; whole way \S+ \(most at \w+", Page.read(page_of(new, "half")).text
    )
