"""The user's torch module: built by the factory, its checkpoint loaded strictly, in evaluation mode (in a worker)."""

import inspect
import pickle
import re
import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tasks.core.errors import UserCodeError
from tasks.core.frozen import Frozen
from tasks.core.user_code import call_user, load_function

if TYPE_CHECKING:
    import torch


_MESSAGE_LENGTH = 200
# What torch.load raises for a file that is cut off, or no checkpoint at all.
_NOT_WHOLE = (
    pickle.UnpicklingError,
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    struct.error,
)


class TorchSource(Frozen):
    """A factory `module:function`, its checkpoint, the names of its inputs in the YAML's order, and of its outputs."""

    project: Path
    factory: str
    checkpoint: Path | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def load_module(source: TorchSource) -> "torch.nn.Module":
    """Build the module; raise UserCodeError when the factory or the checkpoint breaks its contract."""
    import torch

    factory = load_function(source.factory, source.project)
    if isinstance(factory, torch.nn.Module):
        raise UserCodeError(
            f"{source.factory} is a {type(factory).__name__}, expected a function that returns one",
            f"write `def build(): return {source.factory.partition(':')[2]}` beside it, and name that",
        )
    module = call_user(source.factory, factory)
    if not isinstance(module, torch.nn.Module):
        raise UserCodeError(
            f"{source.factory} returned a {type(module).__name__}, expected a torch.nn.Module",
            "return the module itself, not its class or its weights",
        )
    if source.checkpoint is not None:
        _load_checkpoint(module, source.checkpoint)
    _check_device(module, source.factory)
    return module.eval()


def _check_device(module: "torch.nn.Module", factory: str) -> None:
    """Raise UserCodeError for weights without values, or on another device than the inputs."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.is_meta:
            raise UserCodeError(
                f"{factory}: {name!r} is on the device `meta`: it has a shape and no values",
                "make the module on the CPU, or give a `checkpoint` that holds it",
            )
        if tensor.device.type != "cpu":
            raise UserCodeError(
                f"{factory}: {name!r} is on the device {str(tensor.device)!r}, expected the CPU",
                "return the module on the CPU: `.cpu()`",
            )


def _load_checkpoint(module: "torch.nn.Module", path: Path) -> None:
    state = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    try:
        # Into weights without values nothing can be copied: they are replaced.
        module.load_state_dict(dict(state), strict=True, assign=any(weight.is_meta for weight in module.parameters()))
    except (RuntimeError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines()[1:4]] or [str(error)]
        raise UserCodeError(
            f"checkpoint {path.name} does not fit the module: {' '.join(lines)}",
            "give the checkpoint of this architecture, or correct the factory",
        ) from error


def _read_safetensors(path: Path) -> Mapping[str, "torch.Tensor"]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UserCodeError(f"checkpoint {path.name} cannot be read: {error}", "write it again") from error


def _read_pickle(path: Path) -> Mapping[str, "torch.Tensor"]:
    """Read a .pt file without running code from it; a Lightning checkpoint holds the state under `state_dict`."""
    import torch

    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except _NOT_WHOLE as error:
        raise _unreadable(path, error) from error
    state = loaded.get("state_dict", loaded) if isinstance(loaded, Mapping) else loaded
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserCodeError(
            f"checkpoint {path.name} holds no state_dict", "save it with torch.save(module.state_dict(), path)"
        )
    return state


def _unreadable(path: Path, error: Exception) -> UserCodeError:
    """Say why a checkpoint was not read; torch's own message advises to run the code in it."""
    code = re.search(r"GLOBAL ([\w.]*\w)", str(error))
    if code or isinstance(error, pickle.UnpicklingError):
        which = f" ({code[1]})" if code else ""
        return UserCodeError(
            f"checkpoint {path.name} is a pickle that needs code to be read{which}, and that is not run",
            "save the state_dict alone: torch.save(module.state_dict(), path), or best as safetensors",
        )
    said = " ".join(str(error).split())[:_MESSAGE_LENGTH] or "it ends too early"
    return UserCodeError(f"checkpoint {path.name} cannot be read: {type(error).__name__}: {said}", "write it again")


def takes_names(module: "torch.nn.Module", inputs: tuple[str, ...]) -> bool:
    """Whether the inputs are passed by name: all are parameters of `forward`. Else they go by position."""
    return set(inputs) <= set(inspect.signature(module.forward).parameters)


def output_names(
    module: "torch.nn.Module", example: "Mapping[str, torch.Tensor]", source: TorchSource
) -> tuple[str, ...]:
    """Run the module once and name what it returns: a dict by its keys, else by the YAML, else output_0, ..."""
    import torch

    by_name = takes_names(module, source.inputs)
    positional = [] if by_name else [example[name] for name in source.inputs]
    try:
        with torch.inference_mode():
            result = call_user(source.factory, partial(module, *positional, **(example if by_name else {})))
    except UserCodeError as error:
        raise _other_dtype(module, example, error) from error
    found = _flatten(result, "")
    bad = [name or "output" for name, value in found if not isinstance(value, torch.Tensor)]
    if bad or not found:
        raise UserCodeError(
            f"{source.factory}: forward returned something else than tensors ({', '.join(bad) or 'nothing'})",
            "return a tensor, or a tuple, list or dict of tensors",
        )
    for name, value in found:
        _check_output(name or "output", cast("torch.Tensor", value), source.factory)
    names = tuple(name or "output" for name, _ in found)
    if source.outputs and len(source.outputs) != len(names):
        raise UserCodeError(
            f"{source.factory} has {len(names)} outputs ({', '.join(names)}), {len(source.outputs)} are named",
            "give one name for each output",
        )
    if isinstance(result, Mapping) and source.outputs and set(source.outputs) != set(names):
        raise UserCodeError(
            f"{source.factory} returns a dict with the keys {', '.join(names)}, not {', '.join(source.outputs)}",
            "use its keys, or leave `outputs` out",
        )
    return names if isinstance(result, Mapping) else source.outputs or names


def _other_dtype(
    module: "torch.nn.Module", example: "Mapping[str, torch.Tensor]", error: UserCodeError
) -> UserCodeError:
    """Where weights have a dtype that no input has, that is the most likely cause of a run that fails."""
    weights, inputs = (
        {str(each.dtype).removeprefix("torch.") for each in tensors if each.is_floating_point()}
        for tensors in (module.parameters(), example.values())
    )
    if not weights or not inputs or weights & inputs:
        return error
    dtypes = f"the weights are {' and '.join(sorted(weights))}, the inputs {' and '.join(sorted(inputs))}"
    told = f"{error.message} ({dtypes})"
    return UserCodeError(told, "return the module in the inputs' dtype, as by `.float()`", error.detail)


def _check_output(name: str, value: "torch.Tensor", factory: str) -> None:
    """Raise UserCodeError for what neither numpy nor an engine's bindings hold."""
    import torch

    kind = str(value.dtype).removeprefix("torch.")
    if value.is_complex():
        raise UserCodeError(
            f"{factory}: output {name!r} is {kind}, and ONNX models give no complex numbers",
            "return `torch.view_as_real(...)` of it, or its real and imaginary parts",
        )
    if value.layout is not torch.strided or value.is_quantized:
        raise UserCodeError(f"{factory}: output {name!r} is no dense tensor", "return `.to_dense()` of it")
    if value.is_floating_point() and value.dtype not in (torch.float16, torch.float32, torch.float64):
        raise UserCodeError(
            f"{factory}: output {name!r} is {kind}, which numpy does not hold",
            "return `.float()` of it; `precisions` says what engines compute in",
        )


def _flatten(value: object, name: str) -> list[tuple[str, object]]:
    """Walk containers in the order in which torch.export flattens them; None is not an output."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [leaf for key, part in value.items() for leaf in _flatten(part, f"{name}_{key}" if name else str(key))]
    if isinstance(value, tuple | list):
        prefix = name or "output"
        return [leaf for index, part in enumerate(value) for leaf in _flatten(part, f"{prefix}_{index}")]
    return [(name, value)]
