"""What `list` and `show` say before a run, after one that passed and after one that failed."""

from tests.commands import Call
from tests.projects import Project


def test_before_the_first_run_there_is_nothing_to_show(new: Project, call: Call) -> None:
    assert call(new, "list", "--json").json == {
        "pipelines": [{"pipeline": "tiny", "last_run": None, "status": None, "promoted": None}]
    }
    said = call(new, "list")
    assert (said.code, said.out.splitlines()[1].split()) == (0, ["tiny", "never", "run", "nothing"])
    said = call(new, "show", "tiny")
    assert (said.code, said.out) == (1, "")
    assert "tiny was never run" in said.err
    assert "trtflow run tiny" in said.err
    assert not new.store.exists()


def test_list_tells_of_each_pipeline_its_last_run_and_what_is_in_force(once: Project, call: Call) -> None:
    tiny, bad = call(once, "list", "--json").json["pipelines"]
    assert (tiny["status"], tiny["promoted"]) == ("passed", "onnxruntime/fp32")
    assert (bad["status"], bad["promoted"]) == ("failed", None)
    lines = call(once, "list").out.splitlines()
    assert lines[0].split() == ["pipeline", "last", "run", "status", "promoted"]
    assert lines[1].split() == ["tiny", tiny["last_run"], "passed", "onnxruntime/fp32"]
    assert lines[2].split() == ["bad", bad["last_run"], "failed", "nothing"]


def test_show_tells_the_verdict_the_reason_and_what_is_in_force(once: Project, call: Call) -> None:
    text = call(once, "show", "tiny").out
    assert "onnxruntime/fp32" in text
    assert "promoted" in text
    assert "parity within the usual bounds" in text
    assert "note: parity was measured on synthetic inputs" in text
    assert "in force: onnxruntime/fp32 (" in text


def test_show_as_json_is_the_record_and_the_promotion(once: Project, call: Call) -> None:
    shown = call(once, "show", "tiny", "--json").json
    assert set(shown) == {"record", "promoted"}
    assert shown["record"] == once.record("tiny").model_dump(mode="json")
    assert shown["promoted"]["key"] == shown["record"]["outcome"]["promoted"]["key"]


def test_a_failed_run_is_shown_with_its_reason(once: Project, call: Call) -> None:
    said = call(once, "show", "bad")
    assert said.code == 0
    assert "onnxruntime/fp32: failed: parity: top1_agreement has a bound" in said.out
    assert "in force: nothing" in said.out


def test_after_a_rollback_nothing_is_in_force(done: Project, call: Call) -> None:
    assert call(done, "rollback", "tiny").code == 0
    assert "in force: nothing" in call(done, "show", "tiny").out
    assert call(done, "list", "--json").json["pipelines"][0]["promoted"] is None


def test_a_record_that_cannot_be_read_is_passed_over(done: Project, call: Call) -> None:
    before = call(done, "show", "tiny", "--json").json
    broken = done.store / "tiny" / "runs" / "99991231T000000.000Z-ffffff"
    broken.mkdir()
    (broken / "run.json").write_text('{"schema_version": 7}')
    assert call(done, "show", "tiny", "--json").json == before


def test_of_two_runs_the_later_one_is_the_last(done: Project, call: Call) -> None:
    names = [call(done, "run", "tiny", "--json").json["runs"][0]["run"] for _ in range(3)]
    assert call(done, "list", "--json").json["pipelines"][0]["last_run"] == names[-1]
    assert sorted(names) == names
