"""One .npz holds a whole set: what is called as an input is that input, and its rows fill the model's batches."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from tasks.core.errors import UserCodeError
from tasks.core.feeds import check_feeds, join
from tasks.core.sets import CALIBRATION, EVALUATION, GOLDEN, TARGETS
from tasks.core.signature import DimRange, InputSpec, Signature
from tasks.core.tensors import Tensors, load_batches
from tasks.sources.collect import DataMetrics, DataRequest, DataSource, collect
from tasks.sources.npz_data import npz_batches

BATCH = DimRange(min=2, opt=4, max=6)


def signature(batch: DimRange | None = BATCH, **shapes: tuple[int | str, ...]) -> Signature:
    dims = {"batch": batch} if batch else {}
    return Signature(inputs={n: InputSpec(dtype="float32", shape=s) for n, s in shapes.items()}, dims=dims)


ROWS = signature(x=("batch", 3))
STATE = signature(x=("batch", 5, 3), h=(2, "batch", 3), scale=())
FIXED = signature(None, x=(16, 3), table=(7,))


def _rows(
    count: int, *, axis: int = 0, shape: tuple[int, ...] = (3,)
) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    whole = np.arange(count * int(np.prod(shape)), dtype=np.float32).reshape(count, *shape)
    return np.ascontiguousarray(np.moveaxis(whole, 0, axis))


def _state(count: int) -> Tensors:
    return {
        "x": _rows(count, shape=(5, 3)),
        "h": _rows(count, axis=1, shape=(2, 3)),
        "scale": np.array(2, np.float32),
    }


def _saved(folder: Path, arrays: Mapping[str, object]) -> Path:
    np.savez(folder / "data.npz", **arrays)  # type: ignore[arg-type]
    return folder / "data.npz"


def _write_one_array(path: Path) -> None:
    with path.open("wb") as stream:
        np.save(stream, np.zeros(3))


def _sizes(takes: Signature, folder: Path, arrays: Mapping[str, object]) -> list[int]:
    found = list(npz_batches(_saved(folder, arrays), takes, "data.evaluation"))
    for feeds, _ in found:
        check_feeds(feeds, takes, "a batch")
    return [len(feeds["x"]) for feeds, _ in found]


@pytest.mark.parametrize(
    ("rows", "sizes"), [(8, [4, 4]), (10, [4, 4, 2]), (9, [4, 5]), (5, [5]), (3, [3]), (6, [4, 2]), (13, [4, 4, 5])]
)
def test_a_rest_that_is_too_small_goes_with_the_batch_before_it(tmp_path: Path, rows: int, sizes: list[int]) -> None:
    assert _sizes(ROWS, tmp_path, {"x": _rows(rows)}) == sizes


def test_the_batch_lies_on_any_axis(tmp_path: Path) -> None:
    arrays = _state(10)
    assert _sizes(STATE, tmp_path, {**arrays, "target_label": np.arange(10)}) == [4, 4, 2]
    found = list(npz_batches(tmp_path / "data.npz", STATE, "data.evaluation"))
    joined = join([feeds for feeds, _ in found], STATE.batch_axes())
    assert all(np.array_equal(joined[name], array) for name, array in arrays.items())
    assert [targets["label"].tolist() for _, targets in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_a_fixed_batch_is_filled_and_what_fits_as_it_is_stays_whole(tmp_path: Path) -> None:
    assert _sizes(FIXED, tmp_path, {"x": _rows(48), "table": np.zeros(7, np.float32)}) == [16, 16, 16]


def test_an_input_may_be_called_as_a_target(tmp_path: Path) -> None:
    takes = signature(x=("batch", 3), target_ids=("batch",))
    ids = np.arange(4, dtype=np.float32)
    path = _saved(tmp_path, {"x": _rows(4), "target_ids": ids, "target_target_ids": ids + 1, "target_y": ids + 2})
    ((feeds, targets),) = npz_batches(path, takes, "data.evaluation")
    assert feeds["target_ids"].tolist() == [0, 1, 2, 3]
    assert {name: array.tolist() for name, array in targets.items()} == {"target_ids": [1, 2, 3, 4], "y": [2, 3, 4, 5]}


@pytest.mark.parametrize(
    ("takes", "arrays", "words", "cure"),
    [
        (
            ROWS,
            {"x": _rows(4), "label": np.zeros(4)},
            "arrays ['label', 'x']",
            "called `target_` and its name: ['label']",
        ),
        (ROWS, {"target_x": _rows(4)}, "the model's inputs are ['x']", "missing: ['x']"),
        (ROWS, {"x": np.array([{}], dtype=object)}, "holds Python objects in 'x'", "booleans, integers or floats"),
        (ROWS, {"x": _rows(4).astype(np.float64)}, "input 'x' has dtype float64, expected float32", ".astype"),
        (STATE, {**_state(4), "h": _rows(5, axis=1, shape=(2, 3))}, "{'x': 4, 'h': 5}", "the same number"),
        (FIXED, {"x": _rows(50), "table": np.zeros(7, np.float32)}, "do not fill batches of 16", "samples: 48`"),
        (signature(DimRange(min=2, opt=4, max=4), x=("batch", 3)), {"x": _rows(9)}, "1 are left", "samples: 8`"),
        (ROWS, {"x": _rows(8), "target_box": np.zeros((9, 4))}, "target 'box' has 9 rows for 8", "one row a sample"),
    ],
)
def test_what_does_not_fit_is_told(
    tmp_path: Path, takes: Signature, arrays: Mapping[str, object], words: str, cure: str
) -> None:
    with pytest.raises(UserCodeError) as caught:
        list(npz_batches(_saved(tmp_path, arrays), takes, "data.evaluation"))
    assert words in caught.value.message
    assert cure in caught.value.cure


@pytest.mark.parametrize("array", [np.float32(1), np.zeros(3, np.float32)])
def test_too_few_axes_are_a_wrong_shape(tmp_path: Path, array: object) -> None:
    ((feeds, _),) = npz_batches(_saved(tmp_path, {"x": array}), ROWS, "data.evaluation")
    with pytest.raises(UserCodeError, match=r"has shape \[3?\], expected \['batch', 3\]"):
        check_feeds(feeds, ROWS, "batch 0")


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (_write_one_array, "holds one array without a name"),
        (lambda path: path.write_bytes(b""), "cannot be read"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "cannot be read"),
        (lambda path: path.mkdir(), "cannot be read"),
    ],
)
def test_a_file_that_is_no_archive_is_told(tmp_path: Path, write: Callable[[Path], object], words: str) -> None:
    path = tmp_path / "data.npz"
    write(path)
    with pytest.raises(UserCodeError, match=words):
        list(npz_batches(path, ROWS, "data.evaluation"))


def _collected(folder: Path, takes: Signature, source: str, samples: int | None) -> DataMetrics:
    asked = DataSource(source=source, samples=samples)
    request = DataRequest(project=folder, signature=takes, calibration=asked, evaluation=asked, folder=folder / "made")
    request.folder.mkdir(exist_ok=True)
    return collect(request).metrics


def test_samples_end_inside_a_batch_whose_state_lies_on_another_axis(tmp_path: Path) -> None:
    _saved(tmp_path, {**_state(12), "target_y": np.arange(12)})
    metrics = _collected(tmp_path, STATE, "data.npz", 10)
    assert metrics.calibration is not None
    assert (metrics.calibration.samples, metrics.calibration.batches) == (10, 3)
    for name in (CALIBRATION, EVALUATION):
        batches = load_batches(tmp_path / "made" / name)
        assert [batch["h"].shape for batch in batches] == [(2, 4, 3), (2, 4, 3), (2, 2, 3)]
        assert all(batch["scale"].shape == () for batch in batches)
    assert [len(batch["y"]) for batch in load_batches(tmp_path / "made" / TARGETS)] == [4, 4, 2]
    assert all(check_feeds(batch, STATE, "golden") for batch in load_batches(tmp_path / "made" / GOLDEN))


@pytest.mark.parametrize(
    ("takes", "counts", "words", "cure"),
    [
        (FIXED, (64, 50), "a part of a batch of 16, and batches of this model are whole", "samples: 48` or `"),
        (ROWS, (12, 9), "a last batch of 1, and batch takes 2 to 6", "samples: 8` or `data.calibration.samples: 12`"),
        (ROWS, (8, 20), "yielded 8 samples, 20 were asked for", "samples: 8`"),
    ],
)
def test_samples_that_make_no_whole_batch_are_told(
    tmp_path: Path, takes: Signature, counts: tuple[int, int], words: str, cure: str
) -> None:
    rows, samples = counts
    _saved(tmp_path, {"x": _rows(rows), **({"table": np.zeros(7, np.float32)} if takes is FIXED else {})})
    with pytest.raises(UserCodeError) as caught:
        _collected(tmp_path, takes, "data.npz", samples)
    assert words in caught.value.message
    assert cure in caught.value.cure


def test_so_many_samples_as_fill_batches_are_taken_from_more(tmp_path: Path) -> None:
    _saved(tmp_path, {"x": _rows(50), "table": np.zeros(7, np.float32)})
    metrics = _collected(tmp_path, FIXED, "data.npz", 48)
    assert metrics.evaluation is not None
    assert (metrics.evaluation.samples, metrics.evaluation.batches) == (48, 3)
