"""Correct the shapes that a graph declares of its outputs, by what its inputs make of them (in a worker).

Shapes are inferred at two points of the declared range. A size that differs between them is no fixed one, and where it
is that of one dim at both it has that dim's name. What cannot be inferred stays as it is declared.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

from tasks.sources.onnx_shapes import Tensors, infer

if TYPE_CHECKING:
    import onnx

Ranges: TypeAlias = Mapping[str, tuple[int, int]]
# The smallest and the largest size of an axis at the two points; None where it could not be inferred.
_Sizes: TypeAlias = tuple[int | None, int | None]


def correct_outputs(model: "onnx.ModelProto", ranges: Ranges) -> bool:
    """Change declared dims that are wrong; `ranges` holds the smallest and largest size of every named dim."""
    named = {name: pair for name, pair in _points(ranges).items() if pair[0] != pair[1]}
    if not named:
        return False
    low, high = (infer(model, {name: pair[at] for name, pair in _points(ranges).items()}) for at in (0, 1))
    changed = [_correct(value, named, (low, high)) for value in model.graph.output]
    return any(changed)


def _points(ranges: Ranges) -> dict[str, tuple[int, int]]:
    """Two sizes of each dim, as far apart as they can be and, where the ranges let them, none that another has."""
    points: dict[str, tuple[int, int]] = {}
    for index, (name, (low, high)) in enumerate(sorted(ranges.items())):
        shift = index if high - low > 2 * index else 0
        points[name] = (low + shift, high - shift)
    return points


def _correct(value: "onnx.ValueInfoProto", named: dict[str, tuple[int, int]], found: tuple[Tensors, Tensors]) -> bool:
    """Correct one output, axis by axis; one of another rank, or without a shape, gets the inferred one."""
    if not value.type.HasField("tensor_type"):
        return False
    low, high = (_dims(value.name, tensors) for tensors in found)
    if low is None or high is None or len(low) != len(high):
        return False
    shape = value.type.tensor_type.shape
    changed = len(shape.dim) != len(low) or not value.type.tensor_type.HasField("shape")
    if changed:
        shape.SetInParent()
        del shape.dim[:]
        for _ in low:
            shape.dim.add()
    for dim, sizes in zip(shape.dim, zip(low, high, strict=True), strict=True):
        changed = _correct_dim(dim, named, sizes) or changed
    return changed


def _dims(name: str, found: Tensors) -> list[int | None] | None:
    kind = found.types.get(name)
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    return [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.tensor_type.shape.dim]


def _correct_dim(dim: "onnx.TensorShapeProto.Dimension", named: dict[str, tuple[int, int]], sizes: _Sizes) -> bool:
    low, high = sizes
    if low is None or high is None:
        return False
    alike = [name for name, pair in named.items() if pair == sizes]
    if low == high:
        right = (
            dim.dim_value == low if dim.HasField("dim_value") else dim.dim_param not in named and dim.dim_param != ""
        )
        if not right:
            dim.dim_value = low
        return not right
    if dim.dim_param in alike or (dim.dim_param and dim.dim_param not in named and len(alike) != 1):
        return False
    before = dim.SerializeToString()
    dim.Clear()
    if len(alike) == 1:
        dim.dim_param = alike[0]
    return bool(dim.SerializeToString() != before)
