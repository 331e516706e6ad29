"""A metric that is read the wrong way round is found: outputs that noise has ruined win by it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core.config import MetricConfig
from tasks.core.tensors import save_batches
from tasks.gates import direction_problem, source_problem
from tasks.sources.user_metric import MetricReply, MetricRequest, measure

METRICS = """
import numpy as np

def accuracy(outputs, targets, reference):
    return float(np.mean(outputs["y"].argmax(-1) == targets["label"]))

def log_loss(outputs, targets, reference):
    shifted = outputs["y"] - outputs["y"].max(-1, keepdims=True)
    chosen = np.take_along_axis(shifted, targets["label"][:, None], 1)[:, 0]
    return float(np.mean(np.log(np.exp(shifted).sum(-1)) - chosen))

def distance(outputs, targets, reference):
    return float(np.linalg.norm(outputs["y"] - reference["y"]))

def picky(outputs, targets, reference):
    if (outputs["y"] != reference["y"]).any():
        raise ValueError("only its own outputs")
    return 1.0
"""


def measured(folder: Path, function: str, seed: int) -> MetricReply:
    """Score a classifier that is mostly right."""
    (folder / "my_metrics.py").write_text(METRICS)
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, 64)
    logits = rng.standard_normal((64, 5), dtype=np.float32) + 4 * np.eye(5, dtype=np.float32)[labels]
    save_batches(folder / "outputs", [{"y": logits}])
    save_batches(folder / "targets", [{"label": labels}])
    return measure(
        MetricRequest(
            project=folder,
            function=f"my_metrics:{function}",
            outputs=folder / "outputs",
            targets=folder / "targets",
            reference=folder / "outputs",
            folder=folder,
            noised=True,
        )
    )


def problem(reply: MetricReply, *, rises: bool) -> str:
    metric = MetricConfig(function="my_metrics:any", higher_is_better=rises)
    return direction_problem(metric, reply.value, reply.noised)


@given(st.sampled_from(["accuracy", "log_loss", "distance"]), st.integers(0, 50))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_loss_that_is_called_a_score_is_found_and_nothing_else(tmp_path: Path, function: str, seed: int) -> None:
    reply = measured(tmp_path, function, seed)
    rises = function == "accuracy"
    assert problem(reply, rises=rises) == ""
    told = problem(reply, rises=not rises)
    assert "prefers noise" in told
    assert f"write `higher_is_better: {str(rises).lower()}`" in told


def test_a_metric_that_refuses_other_outputs_is_not_suspected(tmp_path: Path) -> None:
    reply = measured(tmp_path, "picky", 1)
    assert (reply.value, reply.noised) == (1.0, ())
    assert problem(reply, rises=True) == problem(reply, rises=False) == ""


@pytest.mark.parametrize(
    ("bounds", "says"), [({"min": 0.9}, "scores 0.87, below min 0.9"), ({"max": 0.5}, "scores 0.87, above max 0.5")]
)
def test_a_source_that_misses_its_own_bounds_is_told_before_any_engine(bounds: dict[str, float], says: str) -> None:
    told = source_problem(MetricConfig.model_validate({"function": "m:top1", **bounds}), 0.87)
    assert says in told
    assert "no engine can pass" in told
    assert source_problem(MetricConfig(function="m:top1", min=0.8), 0.87) == ""
