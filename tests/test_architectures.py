"""The networks of the precision matrix are worth converting: they tell their inputs apart, the same way every time."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tasks.core.yaml_source import load_config
from tests import nets
from tests.architectures import ARCHITECTURES, Architecture, write_project

HERE = [
    pytest.param(
        found, id=name, marks=pytest.mark.skipif(found.missing is not None, reason=f"{found.missing} is not installed")
    )
    for name, found in ARCHITECTURES.items()
]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only wait for each other's threads on a host that has other work."""
    import torch  # here, for every process of the tests reads this file

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def outputs(architecture: Architecture) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    import torch

    model = getattr(nets, f"build_{architecture.name}")()
    with torch.inference_mode():
        batches = nets.samples(architecture.shape, nets.EVALUATION)
        return np.concatenate([model(torch.from_numpy(batch)).numpy() for batch in batches])


@pytest.mark.parametrize("architecture", HERE)
def test_a_network_tells_its_inputs_apart(architecture: Architecture) -> None:
    found = outputs(architecture)
    assert len(found) == nets.SAMPLES
    assert np.isfinite(found).all()
    # Where samples differ no less than places of one sample do, nothing died on the way.
    assert found.std(axis=0).mean() > 0.5 * found.std()
    if architecture.metric == "same_class":
        classes = np.arange(nets.SAMPLES) % nets.CLASSES
        assert (found.argmax(axis=1) == classes).mean() > 0.9


def test_a_network_is_the_same_every_time() -> None:
    cnn = ARCHITECTURES["cnn"]
    assert np.array_equal(outputs(cnn), outputs(cnn))


def test_samples_to_judge_by_are_not_those_to_calibrate_with() -> None:
    kinds = (nets.FITTING, nets.CALIBRATION, nets.EVALUATION)
    sets = [{row.tobytes() for batch in nets.samples((1, 8, 8), kind) for row in batch} for kind in kinds]
    assert len(set.union(*sets)) == 3 * nets.SAMPLES


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_a_project_of_an_architecture_is_whole(architecture: Architecture, tmp_path: Path) -> None:
    write_project(tmp_path, architecture, ["fp32", {"fp16": {"optional": True}}])
    config = load_config(tmp_path / "pipelines.yaml").pipelines[architecture.name]
    assert [precision.name for precision in config.precisions or ()] == ["fp32", "fp16"]
    compile((tmp_path / "net.py").read_text(), "net.py", "exec")
    assert (tmp_path / "nets.py").read_bytes() == Path(nets.__file__).read_bytes()


def test_metrics_compare_with_the_source() -> None:
    reference = {"y": np.array([[0.0, 3.0], [4.0, 0.0]])}
    other = {"y": np.array([[3.0, 0.0], [4.0, 0.0]])}
    assert nets.same_class(reference, {}, reference) == nets.same_picture(reference, {}, reference) == 1
    assert nets.same_class(other, {}, reference) == 0.5
    assert nets.same_picture(other, {}, reference) == pytest.approx(1 - 18**0.5 / 5)
