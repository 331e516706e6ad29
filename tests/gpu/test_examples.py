"""The Python example runs what is promoted, knowing nothing of trtflow."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tasks.core.config import RuntimeName
from tasks.core.metrics import compare, worst
from tests.projects import ROOT
from tests.runtimes.contract import Built, Case, opened

pytestmark = pytest.mark.gpu
EXAMPLE = ROOT / "examples" / "run_engine.py"


@pytest.fixture
def promoted(tmp_path: Path, built: Built) -> Path:
    """A store in which the engine is in force."""
    folder = tmp_path / "artifacts" / "net" / "build" / "0123456789abcdef0123"
    folder.mkdir(parents=True)
    for name in ("model.engine", "card.json"):
        (folder / name).write_bytes(built.engine.with_name(name).read_bytes())
    pipeline = tmp_path / "artifacts" / "net"
    current = {"current": {"artifact": "net/build/0123456789abcdef0123"}, "barred": []}
    (pipeline / "promoted.json").write_text(json.dumps(current))
    return pipeline


def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", str(EXAMPLE), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=120, cwd="/")


def test_it_computes_what_our_session_does(
    name: RuntimeName, promoted: Path, built: Built, given: Case, tmp_path: Path
) -> None:
    feeds = given.batches[0]
    np.savez(tmp_path / "feeds.npz", **feeds)  # type: ignore[arg-type]
    done = run(promoted, tmp_path / "feeds.npz", tmp_path / "outputs.npz")
    assert done.returncode == 0, done.stdout + done.stderr
    with opened(name, built) as session:
        expected = session.infer(feeds)
    found = dict(np.load(tmp_path / "outputs.npz"))
    assert worst(compare(found, expected).values()).max_abs_error <= 1e-5


def test_it_makes_feeds_of_the_usual_size(name: RuntimeName, promoted: Path) -> None:
    assert name
    done = run(promoted)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "logits: float32[4, 10]" in done.stdout


def test_it_refuses_an_engine_that_was_changed(name: RuntimeName, promoted: Path) -> None:
    assert name
    (engine,) = promoted.rglob("model.engine")
    engine.write_bytes(engine.read_bytes()[:-1])
    done = run(promoted)
    assert done.returncode == 1
    assert "is not the engine of its card" in done.stderr
