"""Check feeds against a model's signature, cut and join them along their batch, and generate seeded ones."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias

from tasks.core.errors import ConfigError, UserCodeError, Where
from tasks.core.signature import InputSpec, Signature
from tasks.core.tensors import Tensors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Axes: TypeAlias = Mapping[str, int]
_LARGEST_NUMBER = 8  # bytes: what a safetensors file can hold


def check_feeds(feeds: object, signature: Signature, what: str) -> Tensors:
    """Return `feeds` if it is what the model takes; raise UserCodeError that names `what` and the input at fault."""
    if not isinstance(feeds, dict):
        raise UserCodeError(f"{what} is {kind_of(feeds)}", "yield a dict from input names to numpy arrays")
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


def kind_of(value: object) -> str:
    """What a value is, in words."""
    name = type(value).__name__
    return "None" if value is None else f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def check_array(array: object, dtype: str | None, what: str) -> None:
    """Raise UserCodeError unless `array` is a numpy array of numbers without NaN, of `dtype` where one is given."""
    import numpy as np

    if not isinstance(array, np.ndarray):
        raise UserCodeError(f"{what} is {kind_of(array)}", "make it a numpy array, with .numpy() for a tensor")
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
            least, most = size < dim.min, size > dim.max
            what_to_yield = "larger" if least else "smaller" if most else f"a multiple of {dim.step}:"
            raise UserCodeError(
                f"{what} has {name} = {size}, outside its range {dim.described()}",
                f"yield {what_to_yield} arrays along {name}, or widen `dims.{name}` in the YAML",
            )


def samples_in(feeds: Tensors, axes: Axes | None = None) -> int:
    """Number of samples in a batch, by the axis on which each tensor has them; unknown, that is axis 0."""
    counts = (array.shape[_axis(name, axes)] for name, array in feeds.items() if _is_cut(name, array, axes))
    return next((int(count) for count in counts), 1)


def cut(feeds: Tensors, start: int, stop: int, axes: Axes | None = None) -> Tensors:
    """Return samples `start` to `stop` of a batch; what has no axis for them stays whole."""
    import numpy as np

    return {
        name: np.asarray(_part(array, start, stop, _axis(name, axes)), order="C")
        if _is_cut(name, array, axes)
        else array
        for name, array in feeds.items()
    }


def join(parts: "Sequence[Tensors]", axes: Axes) -> Tensors:
    """Put batches one behind the other; what has no axis for samples is that of the first."""
    import numpy as np

    return {
        name: np.concatenate([part[name] for part in parts], axis=axes[name]) if name in axes else array
        for name, array in parts[0].items()
    }


def _axis(name: str, axes: Axes | None) -> int:
    return 0 if axes is None else axes[name]


def _is_cut(name: str, array: "NDArray[np.generic]", axes: Axes | None) -> bool:
    return array.ndim > 0 if axes is None else name in axes


def _part(array: "NDArray[np.generic]", start: int, stop: int, axis: int) -> "NDArray[np.generic]":
    return array[(*[slice(None)] * axis, slice(start, stop))]


def chunks(batches: Iterable[Tensors], signature: Signature, size: int) -> Iterator[Tensors]:
    """Cut batches into parts of at most `size` samples where the model's batch is dynamic; else as they are."""
    dim, axes = signature.batch_dim(), signature.batch_axes()
    for feeds in batches:
        if dim is None:
            yield feeds
            continue
        count, taken = samples_in(feeds, axes), signature.dims[dim]
        size = max(taken.min, min(size, taken.max) // taken.step * taken.step)
        for start in range(0, count, size):
            stop = min(start + size, count)
            if taken.holds(stop - start):
                yield cut(feeds, start, stop, axes)


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
