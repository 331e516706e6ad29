"""What goes into an engine and comes out of it, in the types that TensorRT itself has (in a worker)."""

from typing import Any, NamedTuple

from tasks.runtimes.base import TensorSpec

# By the names of tensorrt.DataType. `nptype` raises for the types that numpy has not.
_NUMPY = {
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "FP8": "float8_e4m3fn",
    "INT64": "int64",
    "INT32": "int32",
    "INT8": "int8",
    "UINT8": "uint8",
    "BOOL": "bool",
}


class EngineTensor(NamedTuple):
    """Dtype as numpy names it, empty where it has no name for it, and sizes, -1 for those that may change."""

    dtype: str
    shape: tuple[int, ...]


def of_network(network: Any) -> dict[str, EngineTensor]:  # noqa: ANN401 - of a module value
    """Inputs and outputs of a network that was parsed."""
    inputs = (network.get_input(index) for index in range(network.num_inputs))
    outputs = (network.get_output(index) for index in range(network.num_outputs))
    return {tensor.name: _tensor(tensor.dtype, tensor.shape) for tensor in (*inputs, *outputs)}


def of_engine(engine: Any) -> dict[str, EngineTensor]:  # noqa: ANN401
    """The same of an engine."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    return {name: _tensor(engine.get_tensor_dtype(name), engine.get_tensor_shape(name)) for name in names}


def as_taken(specs: tuple[TensorSpec, ...], tensors: dict[str, EngineTensor]) -> tuple[TensorSpec, ...]:
    """Say beside the model's dtype the engine's where that is another one, as int32 for int64 in TensorRT 8.6."""
    return tuple(_as_taken(spec, tensors[spec.name]) if spec.name in tensors else spec for spec in specs)


def _as_taken(spec: TensorSpec, tensor: EngineTensor) -> TensorSpec:
    other = tensor.dtype if tensor.dtype != spec.dtype else ""
    # A graph may leave the shape of an output out, which reads like a scalar's; the parser has inferred it.
    shape = tuple("?" if size < 0 else size for size in tensor.shape) if tensor.shape and not spec.shape else spec.shape
    return spec.model_copy(update={"engine_dtype": other, "shape": shape})


def _tensor(dtype: Any, shape: Any) -> EngineTensor:  # noqa: ANN401
    try:
        sizes = tuple(int(size) for size in shape)
    except ValueError:  # how many axes there are is not known either
        sizes = ()
    return EngineTensor(_NUMPY.get(str(dtype.name), ""), sizes)
