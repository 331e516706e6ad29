"""What a person sees: the table at several widths, reasons, and the progress of steps."""

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from flows.journal import Journal
from flows.table import print_table
from flows.terminal import Progress
from tasks.core.metrics import UNBOUNDED
from tasks.core.outcome import (
    EngineOutcome,
    EngineStatus,
    HopOutcome,
    LatencyOutcome,
    ParityOutcome,
    Promoted,
    RunOutcome,
)
from tests.commands import TINY, Call
from tests.projects import Project


def point(p99: float | None = 0.2, speedup: float | None = 2.5, against: str = "torch eager") -> LatencyOutcome:
    return LatencyOutcome(
        at={"batch": 32},
        p50_ms=0.1234567,
        p90_ms=0.15,
        p99_ms=p99,
        throughput_per_s=254318.7,
        speedup=speedup,
        speedup_ci95=(2.4444, 2.6) if speedup else None,
        speedup_against=against if speedup else None,
    )


def engine(
    name: str, *latency: LatencyOutcome, status: EngineStatus = "passed", rel_l2: float | None = 3.6e-7
) -> EngineOutcome:
    hop = HopOutcome(rel_l2=rel_l2 or 0, cosine=1, max_abs_error=0)
    return EngineOutcome(
        id=name,
        engine=name.partition("/")[0],
        runtime="onnxruntime",
        precision=name.partition("/")[2],
        status=status,
        reason="because",
        artifact=None,
        size_bytes=None if rel_l2 is None else 105962,
        parity=None if rel_l2 is None else ParityOutcome(vs_source=hop, precision_cost=hop, runtime_cost=hop),
        metric=None,
        latency=latency,
    )


def table(width: int, *engines: EngineOutcome, promoted: str | None = None) -> list[str]:
    outcome = RunOutcome(
        pipeline="p",
        status="passed",
        run="r",
        seconds=1,
        steps=(),
        engines=engines,
        promoted=Promoted(id=promoted, key="k", reason="") if promoted else None,
    )
    screen = io.StringIO()
    print_table(Console(file=screen, width=width, highlight=False), outcome)
    return screen.getvalue().splitlines()


BOTH = (engine("onnxruntime/fp32", point(), point()), engine("onnxruntime/fp16", point()))


def test_where_it_is_wide_there_is_one_table_with_a_row_for_each_point() -> None:
    lines = table(120, *BOTH, promoted="onnxruntime/fp16")
    assert re.split(r"\s{2,}", lines[0]) == [
        *("engine", "size", "error", "at", "p50 ms", "p99 ms", "samples/s", "speed-up", "verdict")
    ]
    assert re.split(r"\s{2,}", lines[1]) == [
        *("onnxruntime/fp32", "106.0 kB", "3.6e-07", "batch 32", "0.123", "0.2", "254,319"),
        *("2.50x (2.44 to 2.60)", "passed"),
    ]
    assert lines[2].split()[:2] == ["batch", "32"]
    assert lines[3].endswith("promoted")


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_line_is_wider_than_the_screen_and_none_is_cut(width: int) -> None:
    lines = table(width, *BOTH)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    for text in ("onnxruntime/fp16", "106.0 kB", "2.50x (2.44 to 2.60)", "254,319", "passed"):
        assert any(text in line for line in lines)


def test_where_it_is_narrow_results_and_latencies_have_a_table_each() -> None:
    lines = table(80, *BOTH)
    assert lines[0].split() == ["engine", "verdict", "size", "error"]
    assert lines[3].split() == ["engine", "at", "p50", "ms", "p99", "ms", "samples/s", "speed-up"]


def test_no_line_ends_in_blanks() -> None:
    assert not [line for width in (80, 200) for line in table(width, *BOTH) if line != line.rstrip()]


def test_what_the_columns_mean_is_said_below() -> None:
    lines = table(120, *BOTH)
    assert "error: relative L2 distance of the outputs from the source model's own" in lines
    assert "speed-up: how many times faster than torch eager (95 % interval)" in lines


def test_a_baseline_is_called_one_and_other_baselines_are_named() -> None:
    half, plain = engine("ort/fp16", point(against="ort/fp32")), engine("ort/fp32", point(speedup=None))
    assert any(line.split()[-2:] == ["baseline", "passed"] for line in table(120, half, plain))
    two = table(200, half, plain, engine("b/fp16", point(against="b/fp32")))
    assert any("2.50x (2.44 to 2.60) vs ort/fp32" in line for line in two)
    assert any("2.50x (2.44 to 2.60) vs b/fp32" in line for line in two)


def test_a_percentile_of_too_few_samples_says_so() -> None:
    lines = table(120, engine("ort/fp32", point(p99=None)))
    assert "too few" in lines[1]
    assert lines[-1].startswith("too few: a p99 needs 100 samples")


def test_columns_in_which_nothing_would_stand_are_left_out() -> None:
    lines = table(80, engine("ort/fp32", status="error", rel_l2=None))
    assert [line.split() for line in lines] == [["engine", "verdict"], ["ort/fp32", "error"]]


def test_outputs_without_a_distance_are_called_what_they_are() -> None:
    assert "NaN or Inf" in table(120, engine("ort/fp32", rel_l2=UNBOUNDED))[1]


def test_a_run_is_told_in_full_to_a_pipe(done: Project, call: Call) -> None:
    said = call(done, "run", "tiny")
    lines = said.out.splitlines()
    assert lines[0].startswith("tiny: run 2")
    assert lines[-3].startswith("passed in ")
    assert lines[-3].endswith("19 of 20 steps cached")
    assert Path(lines[-2].removeprefix("record: ")).is_file()
    assert Path(lines[-1].removeprefix("report: ")).is_file()
    assert any(line.startswith("promoted onnxruntime/fp32: best latency_p50_ms at batch 2: ") for line in lines)
    assert "\x1b" not in said.out + said.err


def test_a_failed_run_tells_each_reason_once_with_all_that_it_hit(done: Project, call: Call) -> None:
    (done.folder / "linear.onnx").write_bytes(b"no model")
    said = call(done, "run", "tiny")
    assert said.code == 1
    (reason,) = (line for line in said.out.splitlines() if ": error: " in line)
    assert reason.startswith("onnxruntime/fp32, reference/fp32: error: linear.onnx is not ")
    assert (said.out + said.err).count("linear.onnx is not ") == 2  # when it happens, and at the end


def test_progress_names_what_works_and_what_it_took(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("tiny", quiet=False) as progress:
        journal = Journal(progress.changed)
        journal.started("build", "ort/fp32")
        journal.computing("build", "ort/fp32")
        journal.failed("build", "ort/fp32", ValueError("it broke\nin a way"))
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["  ...    tiny build ort/fp32", "  failed tiny build ort/fp32: it broke"]


def test_each_step_that_works_has_a_line_when_it_starts_and_one_when_it_ends(done: Project, call: Call) -> None:
    done.write(tiny={**TINY, "benchmark": {"seconds": 0.01, "baselines": False}})
    lines = [line for line in call(done, "run", "tiny").err.splitlines() if line.startswith("  ")]
    assert [line.split()[-2:] for line in lines if "charts" not in line] == [["tiny", "benchmark"]] * 2
    assert lines[0].split()[0] == "..."
    assert lines[1].split()[1] == "s"


def test_what_is_cached_and_the_promotion_are_not_worth_a_line(done: Project, call: Call) -> None:
    assert "promote" not in call(done, "run", "tiny").err


def test_a_quiet_run_shows_no_progress(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("tiny", quiet=True) as progress:
        Journal(progress.changed).computing("build", "ort/fp32")
    assert capsys.readouterr() == ("", "")
