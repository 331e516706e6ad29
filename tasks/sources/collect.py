"""Read the user's data sources once, check every batch and choose the golden inputs (in a worker)."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tasks.core.errors import UserCodeError
from tasks.core.feeds import check_array, check_feeds, chunks, cut, generate, kind_of, samples_in
from tasks.core.frozen import Frozen
from tasks.core.observe import observing
from tasks.core.report import Observation
from tasks.core.sets import CALIBRATION, EVALUATION, GOLDEN, TARGETS
from tasks.core.signature import Signature
from tasks.core.tensors import Tensors, save_batches
from tasks.core.user_code import call_user, load_function
from tasks.sources.npz_data import cut_targets, npz_batches

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GOLDEN_SAMPLES = 8  # a golden set is one batch of at most so many samples: enough to see an error, cheap to run
SETS = 2  # one to search with, one to confirm with
SEED = 20260101
_PAIR = 2
Origin = Literal["evaluation", "calibration", "synthetic"]


class DataSource(Frozen):
    """Where one set comes from, and how many samples of it are used; None takes all."""

    source: str
    samples: int | None
    synthetic: bool = False


class DataRequest(Frozen):
    """What the worker is asked for."""

    project: Path
    signature: Signature
    calibration: DataSource | None
    evaluation: DataSource | None
    folder: Path


class TensorStatistics(Frozen):
    """One tensor over a whole set."""

    dtype: str
    shape: tuple[int, ...]
    minimum: float
    maximum: float
    mean: float


class SetMetrics(Frozen):
    """One set: `shape` in its statistics is that of the first batch."""

    samples: int
    batches: int
    tensors: dict[str, TensorStatistics]


class DataMetrics(Frozen):
    """What the sources gave. Golden batches 0 and 1 are two disjoint sets; `golden_origin` says whence each came."""

    calibration: SetMetrics | None
    evaluation: SetMetrics | None
    golden: SetMetrics
    golden_origin: tuple[Origin, Origin]
    synthetic_evaluation: bool


class DataReply(Frozen):
    """What the worker made, and what the user's code read for it."""

    metrics: DataMetrics
    observed: tuple[Observation, ...]


def collect(request: DataRequest) -> DataReply:
    """Read both sources, check every batch, choose the golden sets and write all (runs in a worker)."""
    if request.calibration is None and request.evaluation is None:
        return DataReply(metrics=_kept(request, [], []), observed=())  # all is generated
    with observing(request.project, request.folder) as observations:
        calibration = _calibration(request)
        evaluation = _evaluation(request)
    return DataReply(metrics=_kept(request, calibration, evaluation), observed=observations())


def _kept(request: DataRequest, calibration: list[Tensors], evaluation: list[tuple[Tensors, Tensors]]) -> DataMetrics:
    """Write the sets, and golden ones, into the step's folder."""
    golden, origin = _golden(request.signature, [feeds for feeds, _ in evaluation], calibration)
    made_up = request.evaluation is not None and request.evaluation.synthetic
    save_batches(request.folder / GOLDEN, golden)
    if evaluation:
        save_batches(request.folder / TARGETS, [targets for _, targets in evaluation])
    return DataMetrics(
        calibration=_write(request.folder / CALIBRATION, calibration, request.signature),
        evaluation=_write(request.folder / EVALUATION, [feeds for feeds, _ in evaluation], request.signature),
        golden=_set_metrics(golden, request.signature),
        golden_origin=("synthetic", "synthetic") if made_up else origin,
        synthetic_evaluation=made_up,
    )


def _calibration(request: DataRequest) -> list[Tensors]:
    if request.calibration is None:
        return []
    what = "data.calibration"
    source = request.calibration

    def feeds() -> Iterator[tuple[Tensors, Tensors]]:
        for index, item in enumerate(_items(source.source, request.project, request.signature, what)):
            feeds = item[0] if isinstance(item, tuple) and len(item) == _PAIR else item  # an .npz gives targets too
            yield check_feeds(feeds, request.signature, f"{what}: batch {index}"), {}

    return [batch for batch, _ in _take(feeds(), source, request.signature, what)]


def _evaluation(request: DataRequest) -> list[tuple[Tensors, Tensors]]:
    if request.evaluation is None:
        return []
    what = "data.evaluation"
    source = request.evaluation

    def pairs() -> Iterator[tuple[Tensors, Tensors]]:
        names: Collection[str] | None = None
        for index, item in enumerate(_items(source.source, request.project, request.signature, what)):
            if not (isinstance(item, tuple) and len(item) == _PAIR):
                raise UserCodeError(
                    f"{what}: batch {index} is {kind_of(item)}",
                    "yield a pair: (dict of feeds, dict of targets)",
                )
            feeds = check_feeds(item[0], request.signature, f"{what}: batch {index}")
            targets = _check_targets(item[1], names, f"{what}: batch {index}")
            names = targets.keys()
            yield feeds, targets

    return _take(pairs(), source, request.signature, what)


def _check_targets(targets: object, names: Collection[str] | None, what: str) -> Tensors:
    if not isinstance(targets, dict):
        raise UserCodeError(f"{what}: the targets are {kind_of(targets)}", "yield a dict of numpy arrays")
    for name, array in targets.items():
        if not isinstance(name, str):
            raise UserCodeError(f"{what}: a target has the name {name!r}", "name targets by strings")
        check_array(array, None, f"{what}, target {name!r}")
    if names is not None and targets.keys() != names:
        raise UserCodeError(
            f"{what} has the targets {sorted(targets)}, the batches before it had {sorted(names)}",
            "give every batch the same targets",
        )
    return targets


def _items(source: str, project: Path, signature: Signature, what: str) -> Iterator[object]:
    """What the user's source yields; its errors name it."""
    if source.endswith(".npz"):
        yield from npz_batches(project / source, signature, what)
        return
    function = load_function(source, project)
    result = call_user(source, function)
    if isinstance(result, dict | str | bytes) or not hasattr(result, "__iter__"):
        cure = "return an iterator over batches, or `yield` one after the other"
        raise UserCodeError(f"{what}: {source} returned {kind_of(result)}", cure)
    iterator = call_user(source, iter, result)
    end = object()
    while (item := call_user(source, next, iterator, end)) is not end:
        yield item


def _take(
    pairs: Iterator[tuple[Tensors, Tensors]], source: DataSource, signature: Signature, what: str
) -> list[tuple[Tensors, Tensors]]:
    """Consume exactly the samples that are asked for: cut the last batch, refuse a source that has too few."""
    taken: list[tuple[Tensors, Tensors]] = []
    count = 0
    asked, axes = source.samples, signature.batch_axes()
    while (asked is None or count < asked) and (pair := next(pairs, None)) is not None:
        size = samples_in(pair[0], axes)
        if asked is not None and count + size > asked:
            _check_rest(signature, (asked, count, size), what)
            keep = asked - count
            pair = cut(pair[0], 0, keep, axes), cut_targets(pair[1], size, 0, keep, what)
        taken.append(pair)
        count += samples_in(pair[0], axes)
    if not taken:
        raise UserCodeError(f"{what}: {source.source} yielded nothing", "yield at least one batch")
    if asked is not None and count < asked:
        raise UserCodeError(
            f"{what}: {source.source} yielded {count} samples, {asked} were asked for",
            f"yield more, or set `{what}.samples: {count}`",
        )
    return taken


def _check_rest(signature: Signature, counts: tuple[int, int, int], what: str) -> None:
    """Raise UserCodeError where the last batch cannot be cut to the samples that are asked for."""
    asked, before, size = counts
    dim = signature.batch_dim()
    if dim and signature.dims[dim].holds(asked - before):
        return
    if dim:
        rest = f"a last batch of {asked - before}, and {dim} takes {signature.dims[dim].described()}"
    else:
        rest = f"a part of a batch of {size}, and batches of this model are whole: none of its dims is called `batch`"
    whole = [f"`{what}.samples: {count}`" for count in (before, before + size) if count]
    raise UserCodeError(f"{what}: samples: {asked} leaves {rest}", f"set {' or '.join(whole)}")


def _golden(
    signature: Signature, evaluation: list[Tensors], calibration: list[Tensors]
) -> tuple[list[Tensors], tuple[Origin, Origin]]:
    """Two disjoint batches: from evaluation, else from calibration, else generated."""
    found: list[tuple[Tensors, Origin]] = []
    sets: tuple[tuple[list[Tensors], Origin], ...] = ((evaluation, "evaluation"), (calibration, "calibration"))
    for batches, origin in sets:
        found += [(feeds, origin) for feeds in _two_batches(batches, signature)]
    dim = signature.batch_dim()
    sizes = signature.sizes("opt")
    if dim:
        takes = signature.dims[dim]
        sizes[dim] = max(takes.min, min(GOLDEN_SAMPLES, sizes[dim]) // takes.step * takes.step)
    while len(found) < SETS:
        like = found[0][0] if found else None
        found.append((generate(signature, sizes, SEED + len(found), like), "synthetic"))
    return [found[0][0], found[1][0]], (found[0][1], found[1][1])


def _two_batches(batches: list[Tensors], signature: Signature) -> list[Tensors]:
    parts = chunks(batches, signature, GOLDEN_SAMPLES)
    found = [feeds for _, feeds in zip(range(SETS), parts, strict=False)]
    dim, axes = signature.batch_dim(), signature.batch_axes()
    if len(found) != 1 or dim is None:
        return found
    count, takes = samples_in(found[0], axes), signature.dims[dim]
    half = count // 2 // takes.step * takes.step
    if not (takes.holds(half) and takes.holds(count - half)):
        return found
    return [cut(found[0], 0, half, axes), cut(found[0], half, count, axes)]


def _write(path: Path, batches: list[Tensors], signature: Signature) -> SetMetrics | None:
    if not batches:
        return None
    save_batches(path, batches)
    return _set_metrics(batches, signature)


def _set_metrics(batches: list[Tensors], signature: Signature) -> SetMetrics:
    names = batches[0].keys()
    statistics = {name: _statistics([batch[name] for batch in batches if name in batch]) for name in names}
    samples = sum(samples_in(batch, signature.batch_axes()) for batch in batches)
    return SetMetrics(samples=samples, batches=len(batches), tensors=statistics)


def _statistics(arrays: "list[NDArray[np.generic]]") -> TensorStatistics:
    import numpy as np

    every = [array.astype(np.float64).ravel() for array in arrays if array.size]
    values = [array[np.isfinite(array)] for array in every if np.isfinite(array).any()]
    count = sum(array.size for array in values)
    return TensorStatistics(
        dtype=str(arrays[0].dtype),
        shape=arrays[0].shape,
        minimum=min((float(array.min()) for array in values), default=0.0),
        maximum=max((float(array.max()) for array in values), default=0.0),
        mean=sum(float(array.sum()) for array in values) / count if count else 0.0,
    )
