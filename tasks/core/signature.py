"""What a model takes: names, dtypes and shapes, with its named dims."""

from typing import Literal

from pydantic import Field

from tasks.core.frozen import Frozen

# fmt: off
Dtype = Literal[
    "float32", "float16", "float64", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool"
]
# fmt: on


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

    def batch_dim(self) -> str | None:
        """Return the named dim that is axis 0 of every input, or None: then a batch cannot be cut or joined."""
        firsts = {spec.shape[0] if spec.shape else None for spec in self.inputs.values()}
        first = firsts.pop() if len(firsts) == 1 else None
        return first if isinstance(first, str) else None
