"""The rules by which a result passes or fails."""

import math

import pytest
from pydantic import ValidationError

from tasks.core.config import EngineConfig, GatesConfig, MetricConfig, PrecisionConfig
from tasks.core.config_precision import PrecisionKind
from tasks.core.metrics import UNBOUNDED, OutputError
from tasks.gates import DEFAULT_METRIC_DROP, Rivalry, Score, judge_metric, judge_parity, regressions
from tasks.runtimes.judge import HopError
from tasks.runtimes.timing import Speedup
from tasks.target import Target

EXACT = OutputError(max_abs_error=0, rel_l2=0, cosine=1)
# Beyond the usual bounds of fp32 (1e-4), within those of fp16 (1e-2).
HALF = OutputError(max_abs_error=0.01, rel_l2=1e-3, cosine=0.9999)
NAN = OutputError(max_abs_error=UNBOUNDED, rel_l2=UNBOUNDED, cosine=0, finite=False)
RISING = MetricConfig(function="user:top1")
FALLING = MetricConfig(function="user:loss", higher_is_better=False)


def hop(error: OutputError, empty: tuple[str, ...] = ()) -> HopError:
    return HopError(worst=error, outputs={"y": error, "z": EXACT}, empty=empty)


def target(kind: PrecisionKind = "fp32", name: str = "", engine: str = "ort") -> Target:
    return Target(
        engine=EngineConfig(runtime="onnxruntime", name=engine), precision=PrecisionConfig(kind=kind, name=name or kind)
    )


def gates(**parity: dict[str, float]) -> GatesConfig:
    return GatesConfig.model_validate({"parity": parity})


@pytest.mark.parametrize("metric", [True, False])
def test_nan_fails_whatever_else_holds(metric: bool) -> None:
    loose = gates(fp32={"cosine": -1.0})
    for chosen in (GatesConfig(), loose):
        verdict = judge_parity(target(), chosen, hop(NAN), metric=metric)
        assert verdict.status == "failed"
        assert verdict.reason == "parity: the outputs hold NaN or Inf"


def test_without_gates_the_bounds_of_the_precision_decide() -> None:
    assert judge_parity(target("fp16"), GatesConfig(), hop(HALF), metric=False).status == "passed"
    verdict = judge_parity(target("fp32"), GatesConfig(), hop(HALF), metric=False)
    assert verdict.status == "failed"
    assert verdict.reason == "parity (default bounds of fp32): rel_l2 0.001 is above 0.0001"


def test_a_metric_outranks_the_usual_bounds_and_both_are_told() -> None:
    verdict = judge_parity(target("fp32"), GatesConfig(), hop(HALF), metric=True)
    assert verdict.status == "passed"
    assert "rel_l2 0.001 is above 0.0001" in verdict.reason
    assert "its metric decides" in verdict.reason


def test_a_declared_bound_fails_even_beside_a_metric() -> None:
    verdict = judge_parity(target(), gates(fp32={"rel_l2": 1e-6}), hop(HALF), metric=True)
    assert (verdict.status, verdict.reason) == ("failed", "parity: rel_l2 0.001 is above 1e-06")


def test_a_declared_bound_replaces_the_usual_ones() -> None:
    assert judge_parity(target(), gates(fp32={"cosine": 0.9}), hop(HALF), metric=False).status == "passed"


def test_an_impossible_bound_fails_what_is_not_exact_and_passes_what_is() -> None:
    impossible = gates(fp32={"rel_l2": 0.0})
    assert judge_parity(target(), impossible, hop(HALF), metric=False).status == "failed"
    assert judge_parity(target(), impossible, hop(EXACT), metric=False).status == "passed"


@pytest.mark.parametrize(
    ("parity", "status"),
    [
        ({"ort/mine": {"rel_l2": 1.0}, "mine": {"rel_l2": 0.0}, "fp32": {"rel_l2": 0.0}}, "passed"),
        ({"ort/mine": {"rel_l2": 0.0}, "mine": {"rel_l2": 1.0}, "fp32": {"rel_l2": 1.0}}, "failed"),
        ({"mine": {"rel_l2": 1.0}, "fp32": {"rel_l2": 0.0}}, "passed"),
        ({"fp32": {"rel_l2": 0.0}}, "failed"),
        ({"other/mine": {"rel_l2": 0.0}, "fp16": {"rel_l2": 0.0}, "fp32": {"rel_l2": 1.0}}, "passed"),
    ],
)
def test_a_gate_is_found_by_id_then_by_name_then_by_kind(parity: dict[str, dict[str, float]], status: str) -> None:
    assert judge_parity(target(name="mine"), gates(**parity), hop(HALF), metric=False).status == status


def test_an_output_may_have_bounds_of_its_own() -> None:
    own = {"rel_l2": 1e-6, "outputs": {"y": {"rel_l2": 1e-2}}}
    assert (
        judge_parity(target(), GatesConfig.model_validate({"parity": {"fp32": own}}), hop(HALF), metric=False).status
        == "passed"
    )
    strict = GatesConfig.model_validate({"parity": {"fp32": {"outputs": {"y": {"rel_l2": 1e-6}}}}})
    verdict = judge_parity(target(), strict, hop(HALF), metric=False)
    assert (verdict.status, verdict.reason) == ("failed", "parity: y: rel_l2 0.001 is above 1e-06")
    wrong = GatesConfig.model_validate({"parity": {"fp32": {"outputs": {"Y": {"rel_l2": 1e-6}}}}})
    assert "no output is called 'Y': did you mean 'y'?" in judge_parity(target(), wrong, hop(HALF), metric=False).reason


@pytest.mark.parametrize("metric", [True, False])
def test_what_was_not_compared_is_no_agreement(metric: bool) -> None:
    nothing = EXACT.model_copy(update={"compared": False})
    for found in (HopError(worst=nothing, outputs={"y": nothing}), hop(EXACT, empty=("y",))):
        verdict = judge_parity(target(), GatesConfig(), found, metric=metric)
        assert verdict.status == ("passed" if metric else "failed")
        assert "nothing was compared" in verdict.reason


def test_another_number_of_rows_is_told_and_decided_by_the_metric() -> None:
    other = EXACT.model_copy(update={"rows": (3, 4)})
    assert judge_parity(target(), GatesConfig(), hop(other), metric=False).status == "failed"
    verdict = judge_parity(target(), GatesConfig(), hop(other), metric=True)
    assert verdict.status == "passed"
    assert "the number of rows differs: 3 instead of 4" in verdict.reason


def test_what_a_result_may_lose_against_the_source() -> None:
    at_the_edge = judge_metric(GatesConfig(metric_drop=0.25), RISING, Score(engine=0.5, source=0.75))
    assert at_the_edge.status == "passed"
    assert at_the_edge.reason == "metric 0.5 (source 0.75)"
    beyond = judge_metric(GatesConfig(metric_drop=0.125), RISING, Score(engine=0.5, source=0.75))
    assert beyond.status == "failed"
    assert beyond.reason == "metric: 0.5 against the source's 0.75: it lost 0.25, 0.125 is allowed"


def test_a_metric_that_should_fall_loses_by_rising() -> None:
    chosen = GatesConfig(metric_drop=0.125)
    assert judge_metric(chosen, FALLING, Score(engine=1.0, source=0.5)).status == "failed"
    assert judge_metric(chosen, FALLING, Score(engine=0.5, source=1.0)).status == "passed"


def test_a_result_that_is_better_than_the_source_passes() -> None:
    assert judge_metric(GatesConfig(metric_drop=0.0), RISING, Score(engine=0.9, source=0.8)).status == "passed"


def test_one_hundredth_may_be_lost_where_nothing_is_said() -> None:
    assert DEFAULT_METRIC_DROP == 0.01
    assert judge_metric(GatesConfig(), RISING, Score(engine=0.9875, source=0.99)).status == "passed"
    assert judge_metric(GatesConfig(), RISING, Score(engine=0.97, source=0.99)).status == "failed"


def test_floor_and_ceiling_hold_however_the_source_does() -> None:
    floor = MetricConfig(function="user:top1", min=0.95)
    verdict = judge_metric(GatesConfig(metric_drop=1.0), floor, Score(engine=0.94, source=0.94))
    assert (verdict.status, verdict.reason) == (
        "failed",
        "metric: 0.94 is below its minimum 0.95 (the source has 0.94)",
    )
    ceiling = MetricConfig(function="user:loss", higher_is_better=False, max=0.5)
    verdict = judge_metric(GatesConfig(metric_drop=1.0), ceiling, Score(engine=0.75, source=0.75))
    assert (verdict.status, verdict.reason) == ("failed", "metric: 0.75 is above its maximum 0.5 (the source has 0.75)")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_score_that_is_no_number_cannot_be_judged(value: float) -> None:
    with pytest.raises(ValidationError):
        Score(engine=value, source=0.5)


def rival(ratio: float, ci95: tuple[float, float] | None) -> Rivalry:
    return Rivalry(promoted="ort/fp16", speedup=Speedup(against="ort/fp16", ratio=ratio, ci95=ci95), metrics=None)


@pytest.mark.parametrize(
    ("ratio", "ci95", "broken"),
    [
        (1.0, (0.99, 1.01), False),
        (0.9, (0.80, 0.96), False),  # the point is beyond what is allowed, and the interval is not
        (0.9, (0.88, 0.92), True),
        (1.5, (1.4, 1.6), False),
    ],
)
def test_a_latency_regresses_only_if_its_whole_interval_does(
    ratio: float, ci95: tuple[float, float], broken: bool
) -> None:
    found = regressions(GatesConfig(latency_regression=0.05), None, rival(ratio, ci95))
    assert bool(found) == broken
    assert all("1.05 is allowed" in reason for reason in found)


def test_a_regression_that_cannot_be_told_counts_as_one() -> None:
    latency, metric = GatesConfig(latency_regression=0.05), GatesConfig(metric_regression=0.0)
    unknown = Rivalry(promoted="ort/fp16", speedup=None, metrics=None, missing="it is gone")
    assert "cannot be decided against the promoted ort/fp16: it is gone" in regressions(latency, None, unknown)[0]
    assert "raise benchmark.seconds" in regressions(latency, None, rival(1.0, None))[0]
    assert "it is gone" in regressions(metric, RISING, unknown)[0]
    assert regressions(GatesConfig(), RISING, unknown) == []


@pytest.mark.parametrize(
    ("metric", "own", "broken"), [(RISING, 0.97, True), (RISING, 1.0, False), (FALLING, 1.0, True)]
)
def test_a_metric_regresses_against_the_promoted_engine(metric: MetricConfig, own: float, broken: bool) -> None:
    rivalry = Rivalry(promoted="ort/fp16", speedup=None, metrics=(own, 0.985))
    assert bool(regressions(GatesConfig(metric_regression=0.01), metric, rivalry)) == broken
