"""A whole set of samples in one .npz file: which arrays are inputs, and the batches that the model takes."""

import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import UserCodeError
from tasks.core.feeds import Axes, check_array, cut, samples_in
from tasks.core.signature import DimRange, Signature
from tasks.core.tensors import Tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TARGET = "target_"
_CURE = "write it with numpy.savez"


def npz_batches(path: Path, signature: Signature, what: str) -> Iterator[tuple[Tensors, Tensors]]:
    """Cut the arrays of the file into batches of feeds and targets; raise UserCodeError where they do not fit."""
    feeds, targets = _sorted_out(_read(path, what), signature, f"{what}: {path.name}")
    for name, spec in signature.inputs.items():
        check_array(feeds[name], spec.dtype, f"{what}: {path.name}, input {name!r}")
    if not all(feeds[name].ndim == len(spec.shape) for name, spec in signature.inputs.items()):
        yield feeds, targets  # whose check says which shape is wrong
        return
    dim = signature.batch_dim()
    axes = signature.batch_axes() if dim else _surplus(feeds, signature)
    if not axes:
        yield feeds, targets
        return
    yield from _cut_up(_Whole(feeds, targets, axes, f"{what}: {path.name}"), _sizes(signature, dim, axes), what)


def cut_targets(targets: Tensors, samples: int, start: int, stop: int, what: str) -> Tensors:
    """Return the targets of samples `start` to `stop`; those without axes belong to all."""
    for name, array in targets.items():
        if array.ndim and array.shape[0] != samples:
            raise UserCodeError(
                f"{what}: target {name!r} has {array.shape[0]} rows for {samples} samples, and the last batch is cut",
                "give it one row a sample, padded where need be",
            )
    return cut(targets, start, stop)


def _read(path: Path, what: str) -> "dict[str, NDArray[np.generic]]":
    import numpy as np

    try:
        arrays = np.load(path, allow_pickle=False)
        if not isinstance(arrays, np.lib.npyio.NpzFile):
            raise UserCodeError(f"{what}: {path} holds one array without a name, and no .npz archive", _CURE)
        with arrays:
            return {name: _array(arrays, name, f"{what}: {path}") for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UserCodeError(f"{what}: {path} cannot be read: {error}", _CURE) from error


def _array(arrays: "np.lib.npyio.NpzFile", name: str, what: str) -> "NDArray[np.generic]":
    import numpy as np

    try:
        array = arrays[name]
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise UserCodeError(
            f"{what} holds Python objects in {name!r}", "make it an array of booleans, integers or floats"
        ) from error
    if not isinstance(array, np.ndarray):
        raise UserCodeError(f"{what} holds {name!r}, which is no array", _CURE)
    return array


def _sorted_out(named: Tensors, signature: Signature, what: str) -> tuple[Tensors, Tensors]:
    """Inputs, and targets: an array that is called as an input is that input, even if its name begins as a target's."""
    inputs = signature.inputs.keys()
    missing = sorted(inputs - named.keys())
    neither = sorted(name for name in named.keys() - inputs if not name.startswith(_TARGET))
    if missing or neither:
        called = f"; a target is called `{_TARGET}` and its name: {neither} is neither" if neither else ""
        raise UserCodeError(
            f"{what} has the arrays {sorted(named)}; the model's inputs are {sorted(inputs)}",
            f"missing: {missing or 'none'}{called}",
        )
    targets = {name.removeprefix(_TARGET): array for name, array in named.items() if name not in inputs}
    return {name: named[name] for name in signature.inputs}, targets


def _surplus(feeds: Tensors, signature: Signature) -> dict[str, int]:
    """Inputs of a model with a batch of one size that hold more than one batch: their samples lie on axis 0."""
    firsts = {name: spec.shape[0] for name, spec in signature.inputs.items() if spec.shape}
    return {name: 0 for name, size in firsts.items() if isinstance(size, int) and feeds[name].shape[0] != size}


def _sizes(signature: Signature, dim: str | None, axes: Axes) -> DimRange:
    """The sizes that a batch may have."""
    if dim:
        return signature.dims[dim]
    size = signature.inputs[next(iter(axes))].shape[0]
    return DimRange.model_validate({"min": size, "opt": size, "max": size})


class _Whole:
    """A whole set, and the axes along which it is cut."""

    def __init__(self, feeds: Tensors, targets: Tensors, axes: Axes, what: str) -> None:
        self.feeds, self.targets, self.axes, self.what = feeds, targets, axes, what
        self.samples = samples_in(feeds, axes)
        for name, axis in axes.items():
            if feeds[name].shape[axis] != self.samples:
                counts = {each: feeds[each].shape[at] for each, at in axes.items()}
                raise UserCodeError(
                    f"{what} holds different numbers of samples: {counts}", "write the same number for every input"
                )

    def part(self, start: int, stop: int) -> tuple[Tensors, Tensors]:
        if (start, stop) == (0, self.samples):
            return self.feeds, self.targets
        targets = cut_targets(self.targets, self.samples, start, stop, self.what)
        return cut(self.feeds, start, stop, self.axes), targets


def _cut_up(whole: _Whole, sizes: DimRange, what: str) -> Iterator[tuple[Tensors, Tensors]]:
    """Batches of the usual size; a rest that is too small for a batch goes with the one before it, if that may be."""
    start = 0
    while start < whole.samples or not start:
        stop = min(start + sizes.opt, whole.samples)
        rest = whole.samples - stop
        if rest < sizes.opt and not sizes.holds(rest) and sizes.holds(whole.samples - start):
            stop = whole.samples
        if start and not sizes.holds(stop - start):
            raise UserCodeError(
                f"{whole.what} holds {whole.samples} samples, which do not fill batches of {sizes.opt}: "
                f"{stop - start} are left, too few for a batch",
                f"set `{what}.samples: {start}`, or add samples",
            )
        yield whole.part(start, stop)
        start = max(stop, 1)
