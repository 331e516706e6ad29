"""The optimization profile of a network: sizes of every input, and values of those that shapes are made of."""

import math
from typing import Any, Literal, TypeAlias

from tasks.core.errors import StepError
from tasks.core.signature import Signature

Place: TypeAlias = Literal["min", "opt", "max"]


def profile_of(
    builder: Any,  # noqa: ANN401 - of a module value
    network: Any,  # noqa: ANN401 - of a module value
    signature: Signature,
    places: tuple[Place, Place, Place] = ("min", "opt", "max"),
) -> Any | None:  # noqa: ANN401 - of a module value
    """Make the profile for named dims and inputs that shapes depend on; None where there is neither."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    values = [tensor.name for tensor in inputs if tensor.is_shape_tensor]
    if not signature.dims and not values:
        return None
    profile = builder.create_optimization_profile()
    sizes = [signature.sizes(place) for place in places]
    for tensor in inputs:
        profile.set_shape(tensor.name, *(signature.shape(tensor.name, size) for size in sizes))
    for name in values:
        bounds = _bounds(name, signature)
        count = math.prod(signature.shape(name, sizes[1]))
        profile.set_shape_input(name, *([bounds[place]] * count for place in places))
    return profile


def _bounds(name: str, signature: Signature) -> dict[Place, int]:
    """The least, usual and greatest value of an input that shapes depend on."""
    found = signature.inputs[name].range
    if found is None:
        raise StepError(
            f"shapes inside the graph depend on the values of input {name!r}, and TensorRT has to know which it takes",
            f"give inputs.{name} its `range: [lowest, highest]`",
        )
    low, high = math.ceil(found[0]), math.floor(found[1])
    return {"min": low, "opt": (low + high) // 2, "max": high}
