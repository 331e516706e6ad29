"""What a model takes: names, dtypes and shapes, with its named dims."""

from collections.abc import Mapping
from typing import Literal, TypeAlias

from pydantic import Field

from tasks.core.frozen import Frozen

# fmt: off
Dtype = Literal[
    "float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"
]
# fmt: on
Shapes: TypeAlias = Mapping[str, tuple[int | str, ...]]
# Names that say of a dim that it counts samples, on whichever axis it lies.
_BATCH_NAMES = ("batch", "batch_size")


class DimRange(Frozen):
    """The sizes that a named dim takes: multiples of `step`. The names are those of an optimization profile."""

    min: int = Field(ge=1)
    opt: int = Field(ge=1)
    max: int = Field(ge=1)
    step: int = Field(default=1, ge=1)

    def holds(self, size: int) -> bool:
        """Whether the dim takes this size."""
        return self.min <= size <= self.max and size % self.step == 0

    def described(self) -> str:
        """The sizes in words."""
        sizes = f"{self.min} to {self.max}"
        return sizes if self.step == 1 else f"{sizes} in multiples of {self.step}"


class InputSpec(Frozen):
    """One input: `shape` mixes sizes and names of dims; `range` bounds generated values, both ends included."""

    dtype: Dtype
    shape: tuple[int | str, ...]
    range: tuple[float, float] | None = None


class Signature(Frozen):
    """Inputs in the order in which the model takes them, and the range of every named dim."""

    inputs: dict[str, InputSpec]
    dims: dict[str, DimRange]

    def sizes(self, which: Literal["min", "opt", "max"]) -> dict[str, int]:
        """Size of every named dim at one end, or at the middle, of its range."""
        return {name: getattr(dim, which) for name, dim in self.dims.items()}

    def shape(self, name: str, sizes: dict[str, int]) -> tuple[int, ...]:
        """Shape of input `name` with its named dims at `sizes`."""
        return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in self.inputs[name].shape)

    @property
    def shapes(self) -> Shapes:
        """Shape of every input, with names where dims are named."""
        return {name: spec.shape for name, spec in self.inputs.items()}

    def batch_dim(self) -> str | None:
        """Return the dim along which a batch is cut or joined, or None: then it cannot be."""
        return batch_dim(self.shapes)

    def batch_axes(self) -> dict[str, int]:
        """Return the axis of the batch, by input; inputs that have none are the same for every sample.

        Without a batch dim, batches are whole, and axis 0 counts their samples.
        """
        dim = self.batch_dim()
        return batch_axes(self.shapes) if dim else {name: 0 for name, shape in self.shapes.items() if shape}


def batch_dim(shapes: Shapes) -> str | None:
    """Return the dim called batch, else the named dim that is axis 0 of every input with axes.

    A dim that an input has twice is none: its samples could not be told apart.
    """
    named = {dim for shape in shapes.values() for dim in shape if isinstance(dim, str)}
    firsts = {shape[0] for shape in shapes.values() if shape}
    called = [name for name in _BATCH_NAMES if name in named]
    first = firsts.pop() if len(firsts) == 1 else None
    dim = called[0] if called else first
    if not isinstance(dim, str) or any(shape.count(dim) > 1 for shape in shapes.values()):
        return None
    return dim


def batch_axes(shapes: Shapes) -> dict[str, int]:
    """Return the axis on which the batch lies, by tensor, for those that have one."""
    dim = batch_dim(shapes)
    return {name: shape.index(dim) for name, shape in shapes.items() if dim is not None and dim in shape}
