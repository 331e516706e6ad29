"""Charts as pieces of a page: reproducible, without addresses, in the page's colours, whatever names they are given."""

import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tasks.core.metrics import UNBOUNDED
from tasks.drawings.canvas import spread
from tasks.drawings.draw import draw
from tasks.drawings.figures import (
    Decision,
    DrawRequest,
    History,
    HopRow,
    Hops,
    Latency,
    Measured,
    Pareto,
    Quality,
    Refused,
    Sweep,
    Timing,
)
from tasks.drawings.pareto import front

HOSTILE = '<script>alert("$x$")</script> & ümlaut'
ZERO = {"vs_source": 0.0, "export": 0.0, "fold": 0.0, "precision_cost": 0.0, "runtime_cost": 0.0}
POINTS = ("batch 1", "batch 8")
CHARTS = {
    "hops": Hops(
        rows=(
            HopRow(name=HOSTILE, hops=ZERO, refused=False),
            HopRow(name="b", hops={**ZERO, "vs_source": UNBOUNDED, "runtime_cost": UNBOUNDED}, refused=True),
        )
    ),
    "latency": Latency(points=POINTS, labels={"a/b": HOSTILE, "eager": "eager"}, baselines=("eager",)),
    "sweep": Sweep(
        points=POINTS,
        timings=tuple(
            Timing(name=name, point=point, p50_ms=1.5, throughput_per_s=10, baseline=name == "eager")
            for name in (HOSTILE, "eager")
            for point in POINTS
        ),
    ),
    "pareto": Pareto(
        results=(
            Quality(name=HOSTILE, p50_ms=1.0, quality=0.5, promoted=True),
            Quality(name="b", p50_ms=1.0, quality=0.5, promoted=False),
        ),
        quality=HOSTILE,
        rises=True,
        source=0.5,
        point=HOSTILE,
        refused=(Refused(name=HOSTILE, quality=0.1), Refused(name="near", quality=0.5)),
        limit=0.4,
        source_ms=2.0,
    ),
    "history": History(
        measured=tuple(Measured(at=at, name=HOSTILE, p50_ms=at, metric=0.5) for at in (100.0, 200.0)),
        decisions=(
            Decision(at=150.0, kind="promotion", name=HOSTILE),
            Decision(at=200.0, kind="rollback", name=""),
        ),
        point=HOSTILE,
    ),
}  # fmt: skip


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """As the benchmark keeps them: by point, candidate and round, a candidate's name holding a slash."""
    times = {
        f"{point}/{name}/{turn}": np.full(3, 1000 + turn)
        for point in (0, 1)
        for name in ("a/b", "eager")
        for turn in (0, 1)
    }
    np.savez_compressed(tmp_path / "samples.npz", **times)  # type: ignore[arg-type]
    return tmp_path / "samples.npz"


def drawn(name: str, folder: Path, samples: Path) -> dict[str, str]:
    folder.mkdir()
    reply = draw(DrawRequest(chart=CHARTS[name], samples=samples, folder=folder))  # type: ignore[arg-type]
    return {file: (folder / file).read_text(encoding="utf-8") for file in reply.pictures}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_a_piece_of_a_page_and_the_same_each_time(name: str, tmp_path: Path, samples: Path) -> None:
    pictures = drawn(name, tmp_path / "one", samples)
    assert pictures == drawn(name, tmp_path / "two", samples)
    for svg in pictures.values():
        assert svg.startswith("<svg viewBox=")
        assert 'role="img" aria-label="' in svg
        assert "http" not in svg
        assert "<script" not in svg
        assert "<?xml" not in svg
        assert "var(--ink)" in svg
        assert not re.search(r"#0[0-9]0[0-9]0[0-9]|#11[0-9]{4}", svg)  # every colour is the page's
        HTMLParser().feed(svg)
    if name != "latency":
        assert any("&lt;script&gt;" in svg and "$x$" in svg for svg in pictures.values())


def test_the_front_holds_what_nothing_beats_in_both() -> None:
    results = tuple(
        Quality(name=name, p50_ms=p50, quality=quality, promoted=False)
        for name, p50, quality in (("slow", 3.0, 0.9), ("fast", 1.0, 0.8), ("beaten", 2.0, 0.7), ("same", 4.0, 0.9))
    )
    assert [each.name for each in front(results, rises=True)] == ["fast", "slow"]
    assert [each.name for each in front(results, rises=False)] == ["fast", "beaten"]


def test_labels_move_apart_in_their_order() -> None:
    placed = spread([5.0, 5.0, 0.0, 40.0], 10)
    assert sorted(range(4), key=placed.__getitem__) in ([2, 0, 1, 3], [2, 1, 0, 3])
    ordered = sorted(placed)
    assert all(after - before > 9.9 for before, after in pairwise(ordered))
