"""New weights into an engine that was built for a graph of the same structure (in a worker, on the GPU)."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from tasks.core.errors import StepError
from tasks.core.tensors import Tensors
from tasks.runtimes.tensorrt_dialects import dialect_of
from tasks.runtimes.tensorrt_network import readable

if TYPE_CHECKING:
    from types import ModuleType

# Attributes of the layers that have weights, with the role by which a refitter calls each.
_WEIGHTS: dict[str, tuple[str, dict[str, str]]] = {
    "CONVOLUTION": ("IConvolutionLayer", {"KERNEL": "kernel", "BIAS": "bias"}),
    "DECONVOLUTION": ("IDeconvolutionLayer", {"KERNEL": "kernel", "BIAS": "bias"}),
    "FULLY_CONNECTED": ("IFullyConnectedLayer", {"KERNEL": "kernel", "BIAS": "bias"}),
    "SCALE": ("IScaleLayer", {"SHIFT": "shift", "SCALE": "scale"}),
    "CONSTANT": ("IConstantLayer", {"CONSTANT": "weights"}),
}
_WORST = 3
ByRole: TypeAlias = "dict[tuple[str, str], Any]"


class NotRefitted(StepError):  # noqa: N818 - a reason to build instead, not a fault
    """The engine does not take these weights: it has to be built."""


def refit_by_parser(trt: "ModuleType", engine: Any, logger: Any, model: bytes, path: Path) -> None:  # noqa: ANN401
    """Let the library match the weights of an ONNX file, where it has what does that (TensorRT 10 and newer)."""
    refitter = _refitter(trt, engine, logger)
    parser = trt.OnnxParserRefitter(refitter, logger)
    if not parser.refit_from_bytes(model, str(path)):
        errors = (parser.get_error(index).desc() for index in range(min(parser.num_errors, _WORST)))
        raise NotRefitted(f"TensorRT cannot refit from {path.name}: {'; '.join(errors)}")
    _finish(refitter)


def restore_weights(trt: "ModuleType", engine: Any, logger: Any, path: Path) -> None:  # noqa: ANN401
    """Give an engine that was opened from a plan without weights those of the graph that lies beside it."""
    if not path.is_file():
        raise StepError(f"{path} is missing, and the plan beside it holds no weights", "build the engine again")
    model = readable(path, dialect_of(trt)).SerializeToString(deterministic=True)
    refit_by_parser(trt, engine, logger, model, path)


def refit_by_layer(trt: "ModuleType", engine: Any, logger: Any, network: Any) -> None:  # noqa: ANN401
    """Set every weight of the engine from a network that was parsed from the new graph, and not built.

    By layer and role, not by the initializers' names: the parser itself combines weights (of a BatchNormalization) and
    names what it makes `tmp_weight_7`, which no initializer is called. What a refitter is not given stays as it was,
    silently; so an engine with a weight that the network does not have is refused.
    """
    refitter = _refitter(trt, engine, logger)
    there = weights_by_role(trt, network)
    layers, roles = refitter.get_all()
    wanted = [(layer, role) for layer, role in zip(layers, roles, strict=True)]
    if not wanted:
        raise NotRefitted("the engine has no weights that can be refitted")
    unknown = [f"{layer} {role.name}" for layer, role in wanted if (layer, role.name) not in there]
    if unknown:
        raise NotRefitted(f"the graph has no weights for {_few(unknown)} of the engine")
    listed = {(layer, role.name) for layer, role in wanted}
    fixed = [f"{layer} {role}" for (layer, role), weights in there.items() if _learned(weights, (layer, role), listed)]
    if fixed:
        raise NotRefitted(f"the engine keeps {_few(fixed)} as it was")
    kept = [there[layer, role.name] for layer, role in wanted]  # a refitter keeps addresses, and no arrays
    for (layer, role), weights in zip(wanted, kept, strict=True):
        if not refitter.set_weights(layer, role, weights):
            raise NotRefitted(f"the engine refuses the {role.name} of {layer}")
    _finish(refitter)


def refit_by_name(trt: "ModuleType", engine: Any, logger: Any, weights: Tensors, needed: Collection[str]) -> None:  # noqa: ANN401
    """Set the engine's weights by the names of initializers, where both sides know each other's names."""
    refitter = _refitter(trt, engine, logger)
    names = list(refitter.get_all_weights())
    strange = [name for name in names if name not in weights] + sorted(set(needed) - set(names))
    if strange or not names:
        raise NotRefitted(f"{_few(strange)} is not on both sides" if strange else "the engine names no weights")
    for name in names:
        if not refitter.set_named_weights(name, weights[name]):
            raise NotRefitted(f"the engine refuses {name!r}")
    _finish(refitter)


def weights_by_role(trt: "ModuleType", network: Any) -> ByRole:  # noqa: ANN401 - of a module value
    """Every weight of a network, by the name of its layer and its role; none that is empty."""
    _check_arrays(trt)
    found: ByRole = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for role, weights in _weights_of(trt, layer):
            found[layer.name, role] = weights
    return found


def named_weights(model: Path) -> Tensors:
    """Initializers of a graph, by name."""
    import onnx
    from onnx.numpy_helper import to_array

    return {tensor.name: to_array(tensor) for tensor in onnx.load(model).graph.initializer}


def _weights_of(trt: "ModuleType", layer: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401
    import numpy as np

    kind, attributes = _WEIGHTS.get(layer.type.name, ("", {}))
    if not kind:
        return
    # The bindings hand out every layer as a plain ILayer; this is how its own members are reached.
    layer.__class__ = getattr(trt, kind)
    for role, attribute in attributes.items():
        weights = np.asarray(getattr(layer, attribute))
        if weights.size:
            yield role, np.ascontiguousarray(weights)


def _check_arrays(trt: "ModuleType") -> None:
    """Bindings that were made for numpy 1 give numpy 2 arrays in which every number is the first one: seen on 8.6.1."""
    import numpy as np

    told = np.arange(3, dtype=np.float32)
    if not np.array_equal(trt.Weights(told).numpy(), told):
        raise NotRefitted(f"TensorRT {trt.__version__} gives its arrays wrongly to numpy {np.__version__}")


def _learned(weights: Any, place: tuple[str, str], listed: Collection[tuple[str, str]]) -> bool:  # noqa: ANN401
    """Whether an array may hold what was learned, and the engine does not take it."""
    return place not in listed and weights.size > 1 and weights.dtype.kind == "f"


def _refitter(trt: "ModuleType", engine: Any, logger: Any) -> Any:  # noqa: ANN401 - of a module value
    try:
        return trt.Refitter(engine, logger)
    except TypeError as error:  # what the bindings make of the null that an engine without REFIT gives
        raise NotRefitted("the engine was not built refittable") from error


def _finish(refitter: Any) -> None:  # noqa: ANN401 - of a module value
    missing = list(refitter.get_missing_weights())
    if missing:
        raise NotRefitted(f"the new graph gives no values for {_few(missing)}")
    if not refitter.refit_cuda_engine():
        raise NotRefitted("TensorRT did not refit the engine")


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _WORST} more" if len(names) > _WORST else ""
    return ", ".join(map(repr, names[:_WORST])) + more
