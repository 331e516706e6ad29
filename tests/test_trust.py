"""What a report says of how far its figures can be trusted: pure functions over records that are made up."""

from pathlib import Path

import pytest

from flows.asked import Asked
from flows.blame import error_sentences, made_by
from flows.evidence import Evidence
from flows.pages.cautions import cautions
from flows.pages.render import told
from flows.speed import doubt, noise, speed_sentences, speeds, tie_sentence
from flows.story import refusals
from tasks.benchmark import BenchmarkMetrics
from tasks.core.environment import Environment
from tasks.core.outcome import (
    EngineOutcome,
    HopOutcome,
    LatencyOutcome,
    ParityOutcome,
    Promoted,
    RunOutcome,
    RunRecord,
)
from tasks.core.report import Recipe, Report
from tasks.runtimes.timing import PointFigures, Speedup

HOST = Environment(os="", python="3.11", cpu="a cpu", cores=2, gpu=None, driver=None, packages={})
AT = {"batch": 1}
KINDS = {"fp32": "fp32", "int8": "int8", "raw": "int8"}
ASKED = Asked(kinds=KINDS, metric="spearman")
Pair = tuple[float, float]


def hop(error: float) -> HopOutcome:
    return HopOutcome(rel_l2=error, cosine=1, max_abs_error=error)


def result(name: str, p50: float | None, ratio: float = 2.0, ci95: Pair | None = (1.5, 2.5)) -> EngineOutcome:
    error = 1e-7 if name == "fp32" else 0.1
    point = LatencyOutcome(
        at=AT,
        p50_ms=p50 or 1,
        p90_ms=None,
        p99_ms=None,
        throughput_per_s=1,
        speedup=ratio,
        speedup_ci95=ci95,
        speedup_against="torch eager",
    )
    return EngineOutcome(
        id=f"ort/{name}",
        engine="ort",
        runtime="onnxruntime",
        precision=name,
        status="passed" if p50 else "failed",
        reason="parity within the usual bounds; metric 1 (source 1)"
        if p50
        else "metric: 0.9 is below its minimum 0.99",
        artifact=None,
        size_bytes=1,
        parity=ParityOutcome(vs_source=hop(error), precision_cost=hop(error), runtime_cost=hop(0)),
        metric=0.9,
        latency=(point,) if p50 else (),
    )


def figures(name: str, p50: float, *, varied: float = 0.02, against: tuple[Speedup, ...] = ()) -> PointFigures:
    return PointFigures(
        name=name,
        at=AT,
        count=99,
        latency_p50_ms=p50,
        latency_p90_ms=None,
        latency_p99_ms=None,
        latency_mean_ms=p50,
        throughput_per_s=1,
        round_variation=varied,
        noisy=varied > 0.1,
        speedups=against,
    )


def found(engines: tuple[EngineOutcome, ...], *points: PointFigures, notes: tuple[str, ...] = ()) -> Evidence:
    outcome = RunOutcome(
        pipeline="p",
        status="passed",
        run="r",
        seconds=1,
        steps=(),
        engines=engines,
        promoted=Promoted(id=engines[0].id, key="0", reason="best"),
    )
    record = RunRecord(
        outcome=outcome,
        started="2026-01-01T00:00:00",
        failure=None,
        notes=notes,
        source_metric=1.0,
        golden_origin=(),
        artifacts=(),
        environment=HOST,
    )
    metrics = BenchmarkMetrics(points=points, openings={}, baselines_missing=None).model_dump(mode="json")
    report = Report(
        pipeline="p",
        step="benchmark",
        subject="",
        key="0" * 64,
        recipe=Recipe(pipeline="p", step="benchmark", version=1),
        observed=None,
        environment=HOST,
        started="",
        seconds=1,
        files=(),
        metrics=metrics,
    )
    return Evidence(Path("nowhere"), record, {("benchmark", ""): report})


def test_a_ratio_by_medians_beyond_the_interval_is_told_beside_that_by_turns() -> None:
    near = found((result("fp32", 10),), figures("ort/fp32", 10), figures("torch eager", 20))
    assert list(speed_sentences(near)) == [
        "2.00x as fast as torch eager at batch 1 (95 %: 1.50 to 2.50; 10 ms against 20 ms)"
    ]
    far = found((result("fp32", 10),), figures("ort/fp32", 10), figures("torch eager", 40))
    assert speeds(far)[0].detail.endswith("; 4.00x by medians, 2.00x by turns")


@pytest.mark.parametrize(
    ("ci95", "says", "clear"),
    [
        ((0.9, 2.5), "No clear difference from torch eager", False),
        ((1.5, 2.5), "2.00x as fast as torch eager", True),
        (None, "about 2.00x as fast as torch eager", False),
    ],
)
def test_what_is_not_clear_is_not_claimed(ci95: Pair | None, says: str, *, clear: bool) -> None:
    (speed,) = speeds(found((result("fp32", 10, 2.0, ci95),)))
    assert (speed.headline, speed.clear) == (says, clear)
    assert ("too few turns" in speed.detail) == (ci95 is None)


def test_noise_behind_the_headline_is_counted() -> None:
    quiet = figures("ort/fp32", 10)
    noisy = found((result("fp32", 10),), quiet, figures("torch eager", 20, varied=0.5), figures("other", 1))
    assert doubt(noisy).startswith("low confidence: 1 of 2 measurements behind this were noisy (1 of 3 in the whole")
    assert noise(noisy) == (1, 3)
    assert not doubt(found((result("fp32", 10),), quiet))


@pytest.mark.parametrize(
    ("ratio", "says"),
    [
        ((0.9, 0.95), "ort/int8 2% behind by medians (95 % by turns: +5% to +11%)"),
        ((0.9, 1.1), "ort/int8 2% behind by medians, not clearly apart (95 % by turns: -9% to +11%): a near tie"),
        (None, "ort/int8 2% behind by medians, within noise (turns varied by 5%): a near tie"),
    ],
)
def test_a_near_tie_is_called_one(ratio: Pair | None, says: str) -> None:
    against = (Speedup(against="ort/fp32", ratio=1, ci95=ratio),) if ratio else ()
    engines = (result("fp32", 10), result("int8", 10.2))
    points = (figures("ort/fp32", 10), figures("ort/int8", 10.2, varied=0.05, against=against))
    assert tie_sentence(found(engines, *points), ASKED) == f"fastest of 2 that passed; {says}"


def test_a_refusal_points_to_one_of_its_kind_that_passed() -> None:
    (refusal,) = refusals(found((result("fp32", 10), result("int8", 11), result("raw", None))), ASKED)
    assert refusal.reason == "spearman: 0.9 is below its minimum 0.99"
    assert refusal.siblings == {"ort/int8": "passed: spearman 0.9"}


def test_errors_are_told_worst_first_without_those_far_below_their_bound() -> None:
    run = found((result("fp32", 10), result("raw", None)))
    assert list(error_sentences(run, ASKED)) == [
        "ort/raw: largest hop: quantising (precision hop) 0.1; whole way 0.1",
        "far below its bound: ort/fp32",
    ]
    assert made_by(run, run.results[0]).startswith("largest hop: quantising or casting (precision hop)")


def test_notes_that_say_the_same_are_told_once_and_noise_first() -> None:
    notes = ("fp32: outliers: see `repair`", "int8: outliers: see `repair`", "1 of 2 measurements were noisy (x)")
    run = found((result("fp32", 10), result("int8", 11)), notes=notes)
    assert cautions(run, ["a chart"]) == [notes[2], "fp32, int8: outliers: see `repair`", "a chart"]
    assert told("<b> `repair` --rebenchmark") == "&lt;b&gt; <code>repair</code> <code>--rebenchmark</code>"


def test_the_limit_of_the_metric_is_the_stricter_one() -> None:
    assert Asked(metric="m", drop=0.01, least=0.995).limit(1.0) == 0.995
    assert Asked(metric="m", drop=0.01, rises=False, least=2.0).limit(1.0) == 1.01
    assert Asked().limit(1.0) is None
