"""The figures of a benchmark, from times that are known."""

from pathlib import Path

import numpy as np
import pytest

from tasks.core.signature import DimRange, InputSpec, Signature
from tasks.core.tensors import load_batches, save_batches
from tasks.runtimes.timing import (
    FEWEST_ROUNDS,
    Comparison,
    FiguresRequest,
    PointFigures,
    PointSamples,
    PointsRequest,
    Speedup,
    TimedRounds,
    prepare_points,
    sum_up,
)

MS = 1_000_000
BASE = "baseline"


def summed(folder: Path, *timed: TimedRounds, samples: int = 1) -> dict[str, PointFigures]:
    point = PointSamples(at={"batch": samples}, samples_per_inference=samples, timed=timed)
    comparisons = tuple(Comparison(candidate=one.name, against=BASE) for one in timed if one.name != BASE)
    request = FiguresRequest(points=(point,), comparisons=comparisons, samples=folder / "samples.npz")
    return {figures.name: figures for figures in sum_up(request).points}


def rounds_of(name: str, *rounds: list[int]) -> TimedRounds:
    return TimedRounds(name=name, rounds=tuple(tuple(times) for times in rounds))


def speedup(folder: Path, candidate: TimedRounds, baseline: TimedRounds) -> Speedup:
    (found,) = summed(folder, candidate, baseline)[candidate.name].speedups
    return found


def test_percentiles_are_those_of_the_pooled_samples(tmp_path: Path) -> None:
    # A percentile of the rounds' percentiles would see 99 ms in one round of ten and call the p99 far too high or low.
    rounds = [[MS] * 100 for _ in range(9)] + [[100 * MS] * 100]
    figures = summed(tmp_path, rounds_of("engine", *rounds))["engine"]
    pooled = np.concatenate([np.asarray(times) for times in rounds]) / MS
    assert figures.count == 1000
    assert figures.latency_p50_ms == 1.0
    assert figures.latency_p90_ms == pytest.approx(np.percentile(pooled, 90))
    assert figures.latency_p99_ms == 100.0
    assert figures.latency_mean_ms == pytest.approx(10.9)


@pytest.mark.parametrize(
    ("count", "p90", "p99"), [(9, False, False), (10, True, False), (99, True, False), (100, True, True)]
)
def test_a_percentile_is_none_where_the_samples_are_too_few(tmp_path: Path, count: int, p90: bool, p99: bool) -> None:
    figures = summed(tmp_path, rounds_of("engine", [MS] * count))["engine"]
    assert figures.latency_p50_ms == 1.0
    assert (figures.latency_p90_ms is not None, figures.latency_p99_ms is not None) == (p90, p99)


def test_throughput_counts_samples_and_not_inferences(tmp_path: Path) -> None:
    figures = summed(tmp_path, rounds_of("engine", [2 * MS] * 5), samples=32)["engine"]
    assert figures.throughput_per_s == pytest.approx(32 * 500)


def test_steady_rounds_are_not_noisy_and_scattered_ones_are(tmp_path: Path) -> None:
    steady = rounds_of("steady", *([MS + shift * MS // 100] * 3 for shift in (0, 1, -1, 2, -2)))
    scattered = rounds_of("scattered", *([MS * factor] * 3 for factor in (1, 2, 1, 2, 1)))
    figures = summed(tmp_path, steady, scattered)
    assert not figures["steady"].noisy
    assert figures["steady"].round_variation == pytest.approx(0.0141, abs=1e-3)
    assert figures["scattered"].noisy


def test_single_slow_samples_make_no_round_noisy(tmp_path: Path) -> None:
    rounds = [[MS] * 20 + [50 * MS] for _ in range(10)]
    assert not summed(tmp_path, rounds_of("engine", *rounds))["engine"].noisy


def test_a_known_ratio_is_found_exactly_where_there_is_no_noise(tmp_path: Path) -> None:
    found = speedup(tmp_path, rounds_of("engine", *[[MS] * 3] * 20), rounds_of(BASE, *[[3 * MS] * 3] * 20))
    assert found.against == BASE
    assert found.ratio == pytest.approx(3.0)
    assert found.ci95 is not None
    assert found.ci95 == pytest.approx((3.0, 3.0))
    assert found.ci95[0] <= found.ratio <= found.ci95[1]


def test_a_drift_of_the_host_that_hits_both_alike_does_not_widen_the_interval(tmp_path: Path) -> None:
    drift = np.linspace(1, 3, 20)
    engine = rounds_of("engine", *([int(MS * factor)] * 3 for factor in drift))
    found = speedup(tmp_path, engine, rounds_of(BASE, *([int(2 * MS * factor)] * 3 for factor in drift)))
    assert found.ci95 == pytest.approx((2.0, 2.0), rel=1e-4)


def test_the_interval_covers_a_known_ratio_and_contains_the_estimate(tmp_path: Path) -> None:
    noise = np.random.default_rng(7)

    def noisy(name: str, milliseconds: float) -> TimedRounds:
        times = milliseconds * MS * noise.lognormal(0, 0.1, 20)
        return rounds_of(name, *([int(time)] for time in times))

    trials = [speedup(tmp_path, noisy("engine", 1.0), noisy(BASE, 1.5)) for _ in range(100)]
    intervals = [found.ci95 for found in trials if found.ci95]
    assert len(intervals) == len(trials)
    assert all(low <= found.ratio <= high for found, (low, high) in zip(trials, intervals, strict=True))
    # A bootstrap of twenty rounds is a little too sure of itself: measured 0.93. Chance takes 0.05 of 100 trials.
    assert 0.88 * len(trials) <= sum(low <= 1.5 <= high for low, high in intervals) < len(trials)


def test_too_few_rounds_give_a_ratio_without_an_interval(tmp_path: Path) -> None:
    few = FEWEST_ROUNDS - 1
    found = speedup(tmp_path, rounds_of("engine", *[[MS]] * few), rounds_of(BASE, *[[2 * MS]] * 20))
    assert found.ratio == pytest.approx(2.0)
    assert found.ci95 is None


def test_every_raw_sample_is_kept(tmp_path: Path) -> None:
    summed(tmp_path, rounds_of("ort/fp32", [1, 2, 3], [4]), rounds_of(BASE, [5]))
    with np.load(tmp_path / "samples.npz") as kept:
        assert {name: kept[name].tolist() for name in kept} == {
            "0/ort/fp32/0": [1, 2, 3],
            "0/ort/fp32/1": [4],
            "0/baseline/0": [5],
        }


def test_each_point_gets_feeds_of_its_own_sizes(tmp_path: Path) -> None:
    signature = Signature(
        inputs={"x": InputSpec(dtype="float32", shape=("batch", 2))}, dims={"batch": DimRange(min=1, opt=4, max=8)}
    )
    save_batches(tmp_path / "golden.safetensors", [{"x": np.arange(8, dtype=np.float32).reshape(4, 2)}])
    points = ({"batch": 1}, {"batch": 8})
    request = PointsRequest(
        golden=tmp_path / "golden.safetensors", signature=signature, points=points, feeds=tmp_path / "feeds.safetensors"
    )
    assert prepare_points(request).samples == (1, 8)
    assert [batch["x"].shape for batch in load_batches(request.feeds)] == [(1, 2), (8, 2)]
