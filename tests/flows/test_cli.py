"""The command itself: its options, what it prints as JSON, and how it says no."""

import json
from pathlib import Path

import pytest

from tests.commands import Call, Said
from tests.projects import Project


@pytest.mark.parametrize(
    "arguments", [("--json", "list"), ("list", "--json"), ("--json", "list", "--debug"), ("--debug", "list", "--json")]
)
def test_shared_options_stand_before_or_after_the_command(
    once: Project, call: Call, arguments: tuple[str, ...]
) -> None:
    assert [row["pipeline"] for row in call(once, *arguments).json["pipelines"]] == ["tiny", "bad"]


def test_the_last_of_two_equal_options_wins_wherever_it_stands(once: Project, call: Call, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text((once.folder / "pipelines.yaml").read_text().replace("tiny:", "other:"))
    rows = call(once, "list", "-f", str(other), "--json").json["pipelines"]
    assert [row["pipeline"] for row in rows] == ["other", "bad"]


def test_a_store_given_by_hand_is_used(once: Project, call: Call, tmp_path: Path) -> None:
    rows = call(once, "--store", str(tmp_path / "none"), "list", "--json").json["pipelines"]
    assert [row["last_run"] for row in rows] == [None, None]
    rows = call(once, "list", "--json", "--store", (once.store).as_uri()).json["pipelines"]
    assert None not in [row["last_run"] for row in rows]


@pytest.mark.parametrize("store", ["~nobody-of-that-name/x", "//[", "file:///a%00b"])
def test_a_store_that_can_be_nowhere_is_refused(once: Project, call: Call, store: str) -> None:
    said = call(once, "list", "--store", store)
    assert (said.code, said.out) == (2, "")
    assert "is no place for a store" in said.err


def test_run_prints_exactly_the_documented_fields(done: Project, call: Call) -> None:
    said = call(done, "run", "tiny", "--json")
    (run,) = said.json.pop("runs")
    assert set(said.json) == {"runs"}
    assert set(run) == {"pipeline", "status", "run", "seconds", "steps", "engines", "promoted"}
    for step in run["steps"]:
        assert set(step) == {"step", "key", "cached", "status", "seconds"}
    for engine in run["engines"]:
        assert set(engine) == {
            *("id", "engine", "runtime", "precision", "status", "reason", "artifact", "size_bytes", "verified"),
            *("parity", "metric", "latency"),
        }
        assert set(engine["parity"]) == {"vs_source", "precision_cost", "runtime_cost"}
        for hop in engine["parity"].values():
            assert set(hop) == {"rel_l2", "cosine", "max_abs_error"}
        for point in engine["latency"]:
            assert set(point) == {
                *("at", "p50_ms", "p90_ms", "p99_ms", "throughput_per_s"),
                *("speedup", "speedup_ci95", "speedup_against"),
            }
    assert [engine["id"] for engine in run["engines"]] == ["onnxruntime/fp32", "reference/fp32"]
    assert set(run["promoted"]) == {"id", "key", "reason"}


def test_a_failed_run_has_the_same_fields(done: Project, call: Call) -> None:
    said = call(done, "run", "bad", "--json")
    (run,) = said.json["runs"]
    assert (said.code, run["status"], run["promoted"]) == (1, "failed", None)
    (engine,) = run["engines"]
    assert engine["status"] == "failed"
    assert engine["reason"].startswith("parity: ")
    assert engine["latency"] == []
    states = {step["step"]: step["status"] for step in run["steps"]}
    assert (states["parity"], states["benchmark"], states["promote"]) == ("done", "not_reached", "not_reached")


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "tiny"),
        ("plan",),
        ("list",),
        ("show", "tiny"),
        ("promote", "tiny", "onnxruntime/fp32"),
        ("rollback", "tiny"),
        ("gc",),
        ("repro", "tiny/inspect/KEY"),
        ("repro", "tiny/parity/KEY", "--polygraphy"),
        ("doctor",),
        ("schema", "pipelines"),
        ("schema", "run"),
        ("schema", "report"),
        ("validate",),
    ],
    ids=" ".join,
)
def test_every_command_prints_one_object_and_nothing_else(
    done: Project, call: Call, arguments: tuple[str, ...]
) -> None:
    said = call(done, "--json", *(_with_key(done, argument) for argument in arguments))
    assert said.json
    assert said.code == 0


def _with_key(project: Project, argument: str) -> str:
    if not argument.endswith("KEY"):
        return argument
    return str(next(project.store.glob(argument.replace("KEY", "[!.]*"))).relative_to(project.store))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "--nope"), "unrecognized arguments: --nope"),
        (("rnu",), "invalid choice: 'rnu'"),
        (("show",), "the following arguments are required: NAME"),
        (("run", "--timeout", "soon"), "'soon' is no number of seconds above 0"),
        (("gc", "--keep-runs", "0"), "'0' is no whole number above 0"),
        (("run", "tinny"), "there is no pipeline 'tinny'"),
        (("show", "tinny"), "there is no pipeline 'tinny'"),
        (("plan", "tinny"), "there is no pipeline 'tinny'"),
        (("run", "--checkpoint", "none.onnx"), "--checkpoint is for one pipeline"),
        (("run", "tiny", "--checkpoint", "none.onnx"), "there is no checkpoint 'none.onnx'"),
        (("list", "--store", "s4://bucket"), "there is no protocol 's4'"),
        (("gc", "--keep-days", "-1"), "'-1' is no number of days above 0"),
        (("gc", "--max-size", "20"), "'20' is no size: write it as 20GB"),
        (("list", "--store", "file://host/store"), "file://host/store names a host"),
        (("list", "--store", ""), "the store has no name"),
        (("repro", "tiny/build/none"), "there is no artifact 'tiny/build/none'"),
        (("repro", "../once"), "there is no artifact '../once'"),
        (("list", "-f", "none.yaml"), "none.yaml"),
    ],
)
def test_wrong_usage_is_told_in_one_paragraph_or_one_object(
    once: Project, call: Call, arguments: tuple[str, ...], message: str
) -> None:
    said = call(once, *arguments)
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("trtflow: ")
    assert message in said.err
    assert "Traceback" not in said.err
    said = call(once, *arguments, "--json")
    assert said.code == 2
    error = said.json.pop("error")
    assert set(error) == {"file", "line", "path", "message", "cure"}
    assert message in error["message"] or message in error["file"]
    assert error["cure"]


def test_an_option_is_never_guessed_from_its_beginning(once: Project, call: Call) -> None:
    assert call(once, "run", "--check", "linear.onnx").code == 2


def test_a_wrong_yaml_names_the_file_the_line_and_the_path(new: Project, call: Call) -> None:
    text = (new.folder / "pipelines.yaml").read_text()
    (new.folder / "pipelines.yaml").write_text(text.replace("precisions:", "precision:"))
    error = call(new, "plan", "--json").json["error"]
    assert error["file"].endswith("pipelines.yaml")
    assert text.splitlines()[error["line"] - 1].strip().startswith("precisions:")
    assert error["path"] == "pipelines.tiny.precision"
    assert "precisions" in error["cure"]


@pytest.mark.parametrize("arguments", [("--help",), ("run", "--help")])
def test_help_is_no_error(arguments: tuple[str, ...], call: Call, once: Project) -> None:
    with pytest.raises(SystemExit) as ended:
        call(once, *arguments)
    assert ended.value.code == 0


def test_errors_with_json_keep_stderr_free_of_the_paragraph(once: Project, call: Call) -> None:
    said: Said = call(once, "--json", "show", "tinny")
    assert said.err == ""
    error = json.loads(said.out)["error"]
    assert (error["path"], Path(error["file"]).name) == ("pipelines", "pipelines.yaml")
