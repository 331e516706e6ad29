"""Which of the engines that passed is promoted, and what is said about the others."""

import pytest

from tasks.core.config import Objective, PromoteConfig
from tasks.core.errors import PromotionError
from tasks.core.outcome import EngineOutcome, LatencyOutcome
from tasks.core.report import Artifact
from tasks.promote import Candidate, choose


def point(p50: float, *, p99: float | None = None, throughput: float = 1.0, **at: int) -> LatencyOutcome:
    return LatencyOutcome(
        at=at,
        p50_ms=p50,
        p90_ms=None,
        p99_ms=p99,
        throughput_per_s=throughput,
        speedup=None,
        speedup_ci95=None,
        speedup_against=None,
    )


def candidate(name: str, *latency: LatencyOutcome, size: int = 100, metric: float | None = None) -> Candidate:
    engine, _, precision = name.partition("/")
    outcome = EngineOutcome(
        id=name,
        engine=engine,
        runtime="onnxruntime",
        precision=precision,
        status="passed",
        reason="",
        artifact=f"p/build/{name}",
        size_bytes=size,
        parity=None,
        metric=metric,
        latency=latency,
    )
    return Candidate(outcome=outcome, built=Artifact(pipeline="p", step="build", key=name, files=()))


def chosen(by: Objective, *candidates: Candidate, rises: bool = True, **at: int) -> str:
    return choose(candidates, PromoteConfig(by=by, at=at or None), rises=rises)[0].outcome.id


def test_the_fastest_at_the_point_that_the_yaml_names() -> None:
    small = candidate("a/fp32", point(1.0, batch=1), point(9.0, batch=32))
    large = candidate("b/fp32", point(2.0, batch=1), point(3.0, batch=32))
    assert chosen("latency_p50_ms", small, large, batch=1) == "a/fp32"
    assert chosen("latency_p50_ms", small, large, batch=32) == "b/fp32"


def test_the_first_point_where_the_yaml_names_none() -> None:
    small = candidate("a/fp32", point(2.0, batch=1), point(9.0, batch=32))
    large = candidate("b/fp32", point(1.0, batch=1), point(99.0, batch=32))
    assert chosen("latency_p50_ms", small, large) == "b/fp32"


def test_a_point_is_the_one_that_equals_it_and_not_one_that_holds_it() -> None:
    slow = candidate("a/fp32", point(1.0, batch=1, length=512), point(5.0, batch=1, length=16))
    fast = candidate("b/fp32", point(2.0, batch=1, length=512), point(4.0, batch=1, length=16))
    assert chosen("latency_p50_ms", slow, fast, batch=1, length=16) == "b/fp32"


@pytest.mark.parametrize(
    ("by", "rises", "expected"),
    [
        ("latency_p50_ms", True, "a/fp32"),
        ("latency_p99_ms", True, "b/fp32"),
        ("throughput_per_s", True, "b/fp32"),
        ("size_bytes", True, "a/fp32"),
        ("metric", True, "b/fp32"),
        ("metric", False, "a/fp32"),
    ],
)
def test_each_objective_has_its_direction(by: Objective, rises: bool, expected: str) -> None:
    one = candidate("a/fp32", point(1.0, p99=5.0, throughput=10), size=50, metric=0.90)
    other = candidate("b/fp32", point(2.0, p99=3.0, throughput=20), size=99, metric=0.95)
    assert chosen(by, one, other, rises=rises) == expected


def test_a_tie_goes_to_the_first_of_the_yaml() -> None:
    assert chosen("size_bytes", candidate("z/fp32"), candidate("a/fp32")) == "z/fp32"


def test_an_engine_without_the_value_loses_and_the_reason_says_so() -> None:
    known = candidate("a/fp32", point(2.0, p99=7.5, batch=4))
    unknown = candidate("b/fp32", point(1.0, batch=4))
    best, reason = choose([unknown, known], PromoteConfig(by="latency_p99_ms"), rises=True)
    assert best is known
    assert reason == "best latency_p99_ms at batch 4: 7.5 (b/fp32 not measured)"


def test_where_no_engine_has_the_value_nothing_is_promoted_and_it_is_said_how_to_get_it() -> None:
    with pytest.raises(PromotionError, match="no engine has a value of latency_p99_ms") as error:
        choose([candidate("a/fp32", point(1.0))], PromoteConfig(by="latency_p99_ms"), rises=True)
    assert "benchmark.seconds" in error.value.cure


def test_the_reason_names_the_point_the_value_and_the_losers() -> None:
    engines = [candidate("a/fp32", point(1.25, batch=1)), candidate("a/fp16", point(2.5, batch=1))]
    assert choose(engines, PromoteConfig(), rises=True)[1] == "best latency_p50_ms at batch 1: 1.25 (a/fp16 2.5)"
    alone = choose([candidate("a/fp32", size=7)], PromoteConfig(by="size_bytes"), rises=True)[1]
    assert alone == "best size_bytes: 7"
