"""The committed checkpoint of the digits example, and the data that it is judged by."""

import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from models import digits

if TYPE_CHECKING:  # not every process of the tests needs it: each of them reads every file
    import torch


@pytest.fixture(scope="module")
def trained() -> "torch.nn.Module":
    from safetensors.torch import load_file

    model = digits.build()
    model.load_state_dict(load_file(digits.CHECKPOINT), strict=True)
    return model.eval()


def test_committed_checkpoint_reads_held_out_digits(trained: "torch.nn.Module") -> None:
    # It reached 0.9944 when it was trained (4 of 719 wrong): 0.985 leaves room for a CPU that rounds otherwise.
    assert digits.accuracy(trained) >= 0.985


def test_checkpoint_is_small_enough_to_commit() -> None:
    assert digits.CHECKPOINT.stat().st_size < 300_000


def test_held_out_images_were_not_trained_on() -> None:
    training, _, held_out, _ = digits.split()
    assert len(training) + len(held_out) == 1797
    assert not {image.tobytes() for image in training} & {image.tobytes() for image in held_out}


def test_calibration_yields_the_training_images_alone() -> None:
    training, _, _, _ = digits.split()
    batches = [feeds["image"] for feeds in digits.calibration()]
    assert max(len(batch) for batch in batches) == digits.CALIBRATION_BATCH
    assert np.array_equal(np.concatenate(batches), training)


def test_evaluation_yields_the_held_out_images_with_their_labels() -> None:
    _, _, images, labels = digits.split()
    batches = list(digits.evaluation())
    assert max(len(feeds["image"]) for feeds, _ in batches) == digits.EVALUATION_BATCH
    assert np.array_equal(np.concatenate([feeds["image"] for feeds, _ in batches]), images)
    assert np.array_equal(np.concatenate([targets["label"] for _, targets in batches]), labels)


def test_images_are_what_pipelines_yaml_declares() -> None:
    feeds, targets = next(digits.evaluation())
    assert feeds["image"].dtype == np.float32
    assert feeds["image"].shape[1:] == (1, 8, 8)
    assert feeds["image"].min() >= 0
    assert feeds["image"].max() <= 1
    assert targets["label"].dtype == np.int64


def test_sources_yield_the_same_each_time() -> None:
    for once, again in zip(digits.calibration(), digits.calibration(), strict=True):
        assert np.array_equal(once["image"], again["image"])
    for (once, labels), (again, same_labels) in zip(digits.evaluation(), digits.evaluation(), strict=True):
        assert np.array_equal(once["image"], again["image"])
        assert np.array_equal(labels["label"], same_labels["label"])


def test_top1_counts_the_images_that_were_read_right() -> None:
    logits = np.eye(10, dtype=np.float32)[[3, 1, 4, 1]]
    assert digits.top1({"logits": logits}, {"label": np.array([3, 1, 4, 5])}, {}) == 0.75


def test_missing_scikit_learn_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [])
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ModuleNotFoundError, match="pip install scikit-learn"):
        digits.split()
