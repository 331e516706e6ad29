"""Names of a graph's dynamic axes: as the YAML declares them, and without the -1 that older exporters write."""

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

from tasks.core.signature import Shapes, Signature

if TYPE_CHECKING:
    import onnx

Size: TypeAlias = int | str


def renamed_shapes(graph: Shapes, declared: Shapes) -> dict[str, tuple[Size, ...]]:
    """Return the inputs' shapes with the declared names; a name that was exchanged is so in undeclared inputs too."""
    known = _new_sizes((dim, size) for name in declared for dim, size in zip(graph[name], declared[name], strict=True))
    return {
        name: declared[name] if name in declared else tuple(known.get(dim, dim) for dim in shape)
        for name, shape in graph.items()
    }


def _new_sizes(pairs: Iterable[tuple[Size, Size]]) -> dict[Size, Size]:
    """What each name became; left out where it became several things."""
    found: dict[Size, set[Size]] = defaultdict(set)
    for old, new in pairs:
        found[old].add(new)
    return {old: next(iter(new)) for old, new in found.items() if len(new) == 1}


def name_axes(model: "onnx.ModelProto", signature: Signature) -> bool:
    """Give the inputs' dynamic axes the names, or sizes, of the signature; returns whether one changed.

    Other tensors follow. An axis of theirs whose name has gone, or whose size is negative, may have any size.
    """
    inputs = [value for value in model.graph.input if value.name in signature.inputs]
    pairs = [
        (dim, size)
        for value in inputs
        for dim, size in zip(_dims(value), signature.inputs[value.name].shape, strict=True)
    ]
    changes = [(dim.dim_param, dim, size) for dim, size in pairs if _size(dim) != size]
    kept = [(dim.dim_param, size) for dim, size in pairs]
    known = _new_sizes((old, new) for old, new in kept if old)
    gone = {old for old, _, _ in changes if old} - known.keys()
    for _, dim, size in changes:
        _set(dim, size)
    others = [*model.graph.output, *model.graph.value_info]
    followed = [_follow(dim, known, gone) for value in others for dim in _dims(value)]
    return bool(changes) or any(followed)


def _dims(value: "onnx.ValueInfoProto") -> "list[onnx.TensorShapeProto.Dimension]":
    return list(value.type.tensor_type.shape.dim) if value.type.HasField("tensor_type") else []


def _size(dim: "onnx.TensorShapeProto.Dimension") -> Size:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param


def _set(dim: "onnx.TensorShapeProto.Dimension", size: Size) -> None:
    if isinstance(size, int):
        dim.dim_value = size
    else:
        dim.dim_param = size


def _follow(dim: "onnx.TensorShapeProto.Dimension", known: dict[Size, Size], gone: set[str]) -> bool:
    size = _size(dim)
    if size in gone or (isinstance(size, int) and size < 0):
        dim.Clear()
        return True
    if not size or known.get(size, size) == size:
        return False
    _set(dim, known[size])
    return True
