"""Operators whose sizes later opsets say in another way: Split, Pad and Resize."""

from typing import TYPE_CHECKING

from tasks.runtimes.opset.scope import Nodes, Scope, attributes, called, drop, input_of, newer, put, set_inputs

if TYPE_CHECKING:
    import onnx

    from tasks.runtimes.opset.scope import Array

_LAST = 3  # index of the axes of Pad, and of the sizes of Resize
_ROI, _SCALES, _SIZES = 1, 2, 3


def split(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Since opset 18 `num_outputs` may split unevenly: the last part is then the smaller one."""
    given = attributes(node)
    count, axis = given.get("num_outputs"), given.get("axis", 0)
    drop(node, "num_outputs")
    if not isinstance(count, int) or not isinstance(axis, int) or input_of(node, 1):
        return [node]
    shape = scope.shape(node.input[0])
    size = shape[axis] if shape is not None else None
    part = -(-size // count) if size is not None else 0
    if size is None or size < part * (count - 1):
        return _slices(node, scope, axis)
    if size % count:
        sizes = [part] * (count - 1) + [size - part * (count - 1)]
        set_inputs(node, [node.input[0], scope.numbers(f"{called(node)}/sizes", *sizes)])
    return [node]


def _slices(node: "onnx.NodeProto", scope: Scope, axis: int) -> Nodes:
    """One Slice for each part, of sizes that are computed."""
    from onnx.helper import make_node

    (data, *_), count, name = node.input, len(node.output), called(node)
    size, nodes = _size_of(node, scope, data, axis)
    part, rounded = scope.fresh(f"{name}/part"), scope.fresh(f"{name}/rounded")
    nodes += [
        make_node("Add", [size, scope.numbers(f"{name}/more", count - 1)], [rounded], name=rounded),
        make_node("Div", [rounded, scope.numbers(f"{name}/count", count)], [part], name=part),
    ]
    axes, bound = scope.numbers(f"{name}/axis", axis), scope.numbers(f"{name}/begin", 0)
    for index, output in enumerate(node.output):
        start, bound = bound, scope.fresh(f"{name}/end_{index}")
        nodes.append(make_node("Mul", [part, scope.numbers(f"{name}/index", index + 1)], [bound], name=bound))
        if output:
            nodes.append(make_node("Slice", [data, start, bound, axes], [output], name=f"{name}/{index}"))
    return nodes


def _size_of(node: "onnx.NodeProto", scope: Scope, data: str, axis: int) -> tuple[str, Nodes]:
    """The size of one axis as a list of one number."""
    from onnx.helper import make_node

    name = called(node)
    shape, size = scope.fresh(f"{name}/shape"), scope.fresh(f"{name}/size")
    rank = scope.shape(data)
    axis = axis if axis >= 0 or rank is None else axis + len(rank)
    return size, [
        make_node("Shape", [data], [shape], name=shape),
        make_node("Gather", [shape, scope.numbers(f"{name}/which", axis)], [size], name=size, axis=0),
    ]


def pad_axes(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Since opset 18 Pad takes the axes that it pads: the others get zeros."""
    from onnx.helper import make_node

    axes = _padded(node, scope)
    data, pads, *rest = node.input[:_LAST]
    set_inputs(node, [data, pads, *rest])
    if axes is None:
        return [node]
    rank, count = scope.rank(node, data), len(axes)
    places = [2 * count] * (2 * rank)  # of the zero behind what is given
    for index, axis in enumerate(axes):
        places[axis], places[axis + rank] = index, index + count
    name, known = called(node), scope.constant(pads)
    if known is not None:
        padded = [*known.ravel().tolist(), 0]
        set_inputs(node, [data, scope.numbers(f"{name}/pads", *(padded[place] for place in places)), *rest])
        return [node]
    longer, every = scope.fresh(f"{name}/longer"), scope.fresh(f"{name}/every")
    set_inputs(node, [data, every, *rest])
    return [
        make_node("Concat", [pads, scope.numbers(f"{name}/zero", 0)], [longer], name=longer, axis=0),
        make_node("Gather", [longer, scope.numbers(f"{name}/places", *places)], [every], name=every, axis=0),
        node,
    ]


def _padded(node: "onnx.NodeProto", scope: Scope) -> list[int] | None:
    """Axes that a Pad names, counted from the first; None where it pads all of them in their order."""
    if not input_of(node, _LAST):
        return None
    axes = scope.constant(node.input[_LAST])
    if axes is None:
        raise newer(node, "axes that are computed")
    rank = scope.rank(node, node.input[0])
    return [int(axis) % rank for axis in axes.ravel()]


def pad_wrap(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Since opset 19 Pad may go round: the same by a Gather along each axis."""
    from onnx.helper import make_node

    if attributes(node).get("mode") != b"wrap":
        return [node]
    pads = scope.constant(node.input[1])
    if pads is None:
        raise newer(node, "mode = 'wrap' by sizes that are computed")
    data, name = node.input[0], called(node)
    rank, before = scope.rank(node, data), len(pads) // 2
    axes = _padded(node, scope) or list(range(rank))
    around = [(axis, int(pads[i]), int(pads[i + before])) for i, axis in enumerate(axes) if pads[i] or pads[i + before]]
    shape, nodes, last = scope.shape(data) or [], [], data
    for axis, begin, end in around:
        size, wrapped = shape[axis], scope.fresh(f"{name}/wrapped_{axis}")
        if size is None:
            places, made = _computed_places(node, scope, axis, (begin, end))
        else:
            places, made = scope.numbers(f"{name}/places", *_places(size, begin, end)), []
        nodes += [*made, make_node("Gather", [last, places], [wrapped], name=wrapped, axis=axis)]
        last = wrapped
    return [*nodes, make_node("Identity", [last], list(node.output), name=name)]


def _places(size: int, begin: int, end: int) -> list[int]:
    """Places along an axis; one that is also cut is cut first, and what is left goes round, as on ONNX Runtime."""
    first, left = max(-begin, 0), size + min(begin, 0) + min(end, 0)
    return [first + at % left for at in range(-max(begin, 0), left + max(end, 0))]


def _computed_places(node: "onnx.NodeProto", scope: Scope, axis: int, around: tuple[int, int]) -> tuple[str, Nodes]:
    """Places along an axis whose size only running tells: (0 .. size + begin + end) - begin, modulo size."""
    from onnx.helper import make_node

    (begin, end), name = around, f"{called(node)}/axis_{axis}"
    if min(around) < 0:
        raise newer(node, "mode = 'wrap' with an axis of a computed size that is also cut")
    shape, size, stop, every, more, shifted, times, whole, places = (
        scope.fresh(f"{name}/{key}") for key in ("shape", "size", "stop", "all", "more", "from", "times", "whole", "at")
    )
    steps = [
        ("Shape", [node.input[0]], shape),
        ("Gather", [shape, scope.scalar(f"{name}/which", axis)], size),
        ("Add", [size, scope.scalar(f"{name}/around", begin + end)], stop),
        ("Range", [scope.scalar(f"{name}/zero", 0), stop, scope.scalar(f"{name}/one", 1)], every),
        # Whole turns more, so that no place is below zero: division rounds towards zero.
        ("Mul", [size, scope.scalar(f"{name}/turns", begin)], more),
        ("Sub", [more, scope.scalar(f"{name}/begin", begin)], f"{more}/begin"),
        ("Add", [every, f"{more}/begin"], shifted),
        ("Div", [shifted, size], times),
        ("Mul", [times, size], whole),
        ("Sub", [shifted, whole], places),
    ]
    return places, [make_node(op_type, inputs, [made], name=made) for op_type, inputs, made in steps]


def resize_symmetric(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Since opset 19 Resize may keep the centre: half_pixel does too wherever the output's size is no rounded one."""
    if attributes(node).get("coordinate_transformation_mode") != b"half_pixel_symmetric":
        return [node]
    if not _sized(node, scope) and not _whole(node, scope):
        raise newer(node, "coordinate_transformation_mode = 'half_pixel_symmetric' with sizes that are rounded")
    put(node, "coordinate_transformation_mode", "half_pixel")
    return [node]


def _sized(node: "onnx.NodeProto", scope: Scope) -> bool:
    """Whether sizes are given, and taken as they are."""
    policy = attributes(node).get("keep_aspect_ratio_policy", b"stretch")
    return bool(_given(node, scope, _SIZES)) and policy == b"stretch"


def _whole(node: "onnx.NodeProto", scope: Scope) -> bool:
    """Whether scales make a whole number of pixels of every size."""
    scales = scope.constant(input_of(node, _SCALES)) if input_of(node, _SCALES) else None
    if scales is None or not scales.size:
        return False
    shape = scope.shape(node.input[0])
    sizes = [None] * scales.size if shape is None else [shape[axis] for axis in _resized(node, scope, len(shape))]
    whole = (float(scale) * (size or 1) for scale, size in zip(scales.ravel(), sizes, strict=True))
    return all(pixels.is_integer() for pixels in whole)


def _given(node: "onnx.NodeProto", scope: Scope, index: int) -> str:
    """Name of an input, empty too where it is a tensor without elements, as older exporters leave one out."""
    name = input_of(node, index)
    value = scope.constant(name) if name else None
    return "" if value is not None and not value.size else name


def _resized(node: "onnx.NodeProto", scope: Scope, rank: int) -> list[int]:
    """The axes of a Resize, counted from the first."""
    axes = attributes(node).get("axes")
    del scope
    return [int(axis) % rank for axis in axes] if isinstance(axes, list) else list(range(rank))


def resize_axes(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Since opset 18 Resize may filter, keep the aspect ratio, and name its axes."""
    given = attributes(node)
    if given.get("antialias", 0):
        raise newer(node, "antialias = 1")
    policy = given.get("keep_aspect_ratio_policy", b"stretch")
    if policy != b"stretch" and _given(node, scope, _SIZES):
        raise newer(node, f"keep_aspect_ratio_policy = {policy!r}")
    nodes = _every_axis(node, scope) if "axes" in given else []
    drop(node, "antialias", "keep_aspect_ratio_policy", "axes")
    return [*nodes, node]


def _every_axis(node: "onnx.NodeProto", scope: Scope) -> Nodes:
    """Say scales, sizes and regions of every axis: those that are not named keep what they have."""
    data, name = node.input[0], called(node)
    rank = scope.rank(node, data)
    axes = _resized(node, scope, rank)
    roi, scales, sizes = (_given(node, scope, index) for index in (_ROI, _SCALES, _SIZES))
    if roi:
        roi = scope.add(f"{name}/roi", _spread(node, scope, roi, ([0.0] * rank + [1.0] * rank, axes)))
    if scales:
        scales = scope.add(f"{name}/scales", _spread(node, scope, scales, ([1.0] * rank, axes)))
    nodes: Nodes = []
    if sizes:
        sizes, nodes = _sizes_of_all(node, scope, sizes, axes)
    set_inputs(node, [data, roi, scales, sizes])
    return nodes


def _spread(node: "onnx.NodeProto", scope: Scope, name: str, where: tuple[list[float], list[int]]) -> "Array":
    """Put values that are given for some axes among those of all axes."""
    import numpy as np

    (every, axes), value = where, scope.constant(name)
    if value is None:
        raise newer(node, f"{name!r} is computed, for some axes")
    spread = np.array(every, value.dtype).reshape(-1, len(every) * len(axes) // value.size)
    spread[:, axes] = value.reshape(len(spread), len(axes))
    return spread.ravel()


def _known_sizes(scope: Scope, data: str, sizes: str, axes: list[int]) -> list[int]:
    """Sizes of all axes where they are known, none where they have to be computed."""
    value, every = scope.constant(sizes), list(scope.shape(data) or [])
    for axis, size in zip(axes, () if value is None else value.ravel().tolist(), strict=False):
        every[axis] = int(size)
    whole = [size for size in every if size is not None]
    return whole if value is not None and len(whole) == len(every) else []


def _sizes_of_all(node: "onnx.NodeProto", scope: Scope, sizes: str, axes: list[int]) -> tuple[str, Nodes]:
    from onnx.helper import make_node

    name, data = called(node), node.input[0]
    known, rank = _known_sizes(scope, data, sizes, axes), scope.rank(node, data)
    if known:
        return scope.numbers(f"{name}/sizes", *known), []
    places = list(range(rank))
    for index, axis in enumerate(axes):
        places[axis] = rank + index
    shape, joined, every = (scope.fresh(f"{name}/{key}") for key in ("shape", "joined", "sizes"))
    return every, [
        make_node("Shape", [data], [shape], name=shape),
        make_node("Concat", [shape, sizes], [joined], name=joined, axis=0),
        make_node("Gather", [joined, scope.numbers(f"{name}/which", *places)], [every], name=every, axis=0),
    ]
