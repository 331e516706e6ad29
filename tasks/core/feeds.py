"""Check feeds against a model's signature, cut and join them along their batch, and generate seeded ones."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

from tasks.core.errors import ConfigError, UserCodeError, Where
from tasks.core.signature import InputSpec, Signature
from tasks.core.tensors import Tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LARGEST_NUMBER = 8  # bytes: what a safetensors file can hold


def check_feeds(feeds: object, signature: Signature, what: str) -> Tensors:
    """Return `feeds` if it is what the model takes; raise UserCodeError that names `what` and the input at fault."""
    if not isinstance(feeds, dict):
        raise UserCodeError(f"{what} is a {type(feeds).__name__}", "yield a dict from input names to numpy arrays")
    missing, extra = (
        sorted(signature.inputs.keys() - feeds.keys()),
        sorted(map(str, feeds.keys() - signature.inputs.keys())),
    )
    if missing or extra:
        raise UserCodeError(
            f"{what} has the names {sorted(map(str, feeds))}; the model's inputs are {sorted(signature.inputs)}",
            f"missing: {missing or 'none'}, not inputs: {extra or 'none'}",
        )
    sizes: dict[str, int] = {}
    for name, spec in signature.inputs.items():
        check_array(feeds[name], spec.dtype, f"{what}, input {name!r}")
        _check_shape(feeds[name].shape, spec, f"{what}, input {name!r}", sizes)
    _check_sizes(sizes, signature, what)
    return feeds


def check_array(array: object, dtype: str | None, what: str) -> None:
    """Raise UserCodeError unless `array` is a numpy array of numbers without NaN, of `dtype` where one is given."""
    import numpy as np

    if not isinstance(array, np.ndarray):
        raise UserCodeError(f"{what} is a {type(array).__name__}", "make it a numpy array, with .numpy() for a tensor")
    if dtype is not None and array.dtype != dtype:
        raise UserCodeError(f"{what} has dtype {array.dtype}, expected {dtype}", f"convert it: .astype('{dtype}')")
    if array.dtype.kind not in "biuf" or array.dtype.itemsize > _LARGEST_NUMBER:
        raise UserCodeError(
            f"{what} has dtype {array.dtype}", "make it booleans, integers or floats of at most 64 bits"
        )
    if array.dtype.kind == "f" and np.isnan(array).any():  # an infinity may be meant, as in a mask
        raise UserCodeError(f"{what} holds NaN", "clean the data: what it measures would mean nothing")


def _check_shape(shape: tuple[int, ...], spec: InputSpec, what: str, sizes: dict[str, int]) -> None:
    fits = len(shape) == len(spec.shape)
    for size, dim in zip(shape, spec.shape, strict=False):
        expected = sizes.setdefault(dim, size) if isinstance(dim, str) else dim
        fits = fits and size == expected
    if not fits:
        known = {dim: sizes[dim] for dim in spec.shape if isinstance(dim, str) and dim in sizes}
        raise UserCodeError(
            f"{what} has shape {list(shape)}, expected {list(spec.shape)}" + (f" with {known}" if known else ""),
            "yield arrays of that shape, or correct `inputs` in the YAML",
        )


def _check_sizes(sizes: dict[str, int], signature: Signature, what: str) -> None:
    for name, size in sizes.items():
        dim = signature.dims[name]
        if not dim.holds(size):
            raise UserCodeError(
                f"{what} has {name} = {size}, outside its range {dim.described()}",
                f"yield smaller batches, or widen `dims.{name}` in the YAML",
            )


def samples_in(feeds: Tensors) -> int:
    """Number of samples in a batch: the size of axis 0."""
    return next((int(array.shape[0]) for array in feeds.values() if array.ndim), 1)


def cut(feeds: Tensors, start: int, stop: int) -> Tensors:
    """Return samples `start` to `stop` of a batch."""
    return {name: array[start:stop] for name, array in feeds.items()}


def chunks(batches: Iterable[Tensors], signature: Signature, size: int) -> Iterator[Tensors]:
    """Cut batches into parts of at most `size` samples where the model's batch is dynamic; else as they are."""
    dim = signature.batch_dim()
    for feeds in batches:
        count = samples_in(feeds)
        step = min(size, count) if dim else count
        for start in range(0, count, max(step, 1)):
            stop = min(start + step, count)
            if dim is None or stop - start >= signature.dims[dim].min:
                yield cut(feeds, start, stop) if dim else feeds


def generate(signature: Signature, sizes: dict[str, int], seed: int, like: "Tensors | None" = None) -> Tensors:
    """Seeded values: standard normal floats, integers uniform in their `range`.

    With `like`, feeds that are known to be valid, its values are taken: those of data in another order, and those of
    vectors, which may be scales, sizes or axes, as they are. Raise ConfigError for integers that nothing tells of.
    """
    import numpy as np

    generator = np.random.default_rng(seed)
    given = resize(like, signature, sizes) if like else {}
    return {
        name: _shuffled(generator, given[name])
        if name in given and spec.range is None
        else _generate(generator, name, spec, signature.shape(name, sizes))
        for name, spec in signature.inputs.items()
    }


def _shuffled(generator: "np.random.Generator", array: "NDArray[np.generic]") -> "NDArray[np.generic]":
    """Real numbers of data in another order; integers and vectors stay, as they may mean a place or a size."""
    if array.dtype.kind != "f" or array.ndim <= 1:
        return array
    return generator.permuted(array.reshape(-1)).reshape(array.shape)


def _generate(
    generator: "np.random.Generator", name: str, spec: InputSpec, shape: tuple[int, ...]
) -> "NDArray[np.generic]":
    import numpy as np

    kind: Literal["f", "i", "u", "b"] | str = np.dtype(spec.dtype).kind
    if kind == "b":
        return generator.integers(0, 2, shape).astype(bool)
    if spec.range is not None:
        low, high = spec.range
        if kind == "f":
            return generator.uniform(low, high, shape).astype(spec.dtype)
        return generator.integers(int(low), int(high), shape, endpoint=True).astype(spec.dtype)
    if kind == "f":
        return generator.standard_normal(shape).astype(spec.dtype)
    raise ConfigError(
        f"integer input {name!r} would have to be generated, and nothing says which values are valid",
        f"give its `range: [lowest, highest]`, or an evaluation or calibration source (inputs.{name}.range)",
        Where(path=f"inputs.{name}.range"),
    )


def resize(feeds: Tensors, signature: Signature, sizes: dict[str, int]) -> Tensors:
    """Repeat or cut each array along its named dims, so that they have `sizes`."""
    import numpy as np

    # Not by ascontiguousarray, which gives a scalar an axis.
    return {name: np.asarray(_tile(array, signature.shape(name, sizes)), order="C") for name, array in feeds.items()}


def _tile(array: "NDArray[np.generic]", shape: tuple[int, ...]) -> "NDArray[np.generic]":
    import numpy as np

    repeats = [-(-size // have) for size, have in zip(shape, array.shape, strict=True)]
    return np.tile(array, repeats)[tuple(slice(size) for size in shape)]
