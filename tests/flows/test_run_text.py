"""A run told in Markdown: whatever it is called and whatever went wrong, it is text, and its charts stand alone."""

import base64
import xml.etree.ElementTree as ET

import pytest

from flows.asked import asked_of
from flows.journal import Journal
from flows.pages.pictures import data_uri
from flows.pages.run_text import plain, run_text, table_text
from flows.run import Run, RunOptions
from flows.ui_artifacts import artifact_key
from tasks.core.config import PipelineConfig
from tests.commands import TINY
from tests.projects import Project

CHART = '<svg viewBox="0 0 100.5 50" role="img" aria-label="a &amp; b"><g style="fill: var(--series-1)"></g></svg>'


def test_what_is_not_ours_is_no_markup() -> None:
    assert plain("![x](http://a.b) <img src=y>\n  do | *this*") == (r"!\[x\](http://a.b) \<img src=y\>; do \| \*this\*")


def test_a_table_without_rows_says_so() -> None:
    assert table_text({"engine": ()}) == ["There are none: the run ended before it had any."]
    assert table_text({"a": ("1", "2"), "b": ("x|y", "")}) == ["| a | b |", "|---|---|", r"| 1 | x\|y |", "| 2 |  |"]


def test_a_chart_is_a_document_with_colours_of_its_own() -> None:
    kind, _, data = data_uri(CHART).partition(",")
    assert kind == "data:image/svg+xml;base64"
    document = base64.b64decode(data).decode()
    root = ET.fromstring(document)  # noqa: S314 - made here
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert (root.get("width"), root.get("height")) == ("151", "75")
    assert "--series-1:#0969da" in document
    assert "http" not in document.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize(
    ("pipeline", "key"),
    [
        ("digits", "trtflow-digits"),
        ("a-1", "trtflow-a-1"),
        ("Digits", "trtflow-digits-9cd500"),
        ("a_1", "trtflow-a-1-"),
        ("a.1", "trtflow-a-1-"),
    ],
)
def test_a_key_is_one_pipelines_alone_and_what_prefect_takes(pipeline: str, key: str) -> None:
    assert artifact_key(pipeline).startswith(key)
    assert len({artifact_key(name) for name in ("a-1", "a_1", "a.1", "A-1")}) == 4


def test_a_run_whose_record_is_gone_still_has_its_verdict(once: Project) -> None:
    outcome = once.record("tiny").outcome
    config = PipelineConfig.model_validate(TINY)
    run = Run("tiny", config, RunOptions(once.store, once.folder), Journal(), failure="the disk is\nfull")
    text = run_text(run, outcome, "http://reports/")
    assert asked_of(config).metric is None
    assert text.startswith("# tiny: passed\n")
    assert "**Failed:** the disk is; full" in text
    assert "| onnxruntime/fp32 | promoted |" in text
    assert "report.html" not in text


def test_a_run_leads_to_its_report(once: Project) -> None:
    record = once.record("tiny")
    run = Run("tiny", PipelineConfig.model_validate(TINY), RunOptions(once.store, once.folder), Journal())
    run.id = record.outcome.run
    run.report = run.folder / "report.html"
    assert f"```\n{run.report}\n```" in run_text(run, record.outcome)
    linked = run_text(run, record.outcome, "http://reports/")
    assert f"(http://reports/tiny/runs/{run.id}/report.html)" in linked
    assert linked.count("](data:image/svg+xml;base64,") >= 2
    assert "from the second on" in linked
