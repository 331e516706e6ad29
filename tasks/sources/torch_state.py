"""What a torch module keeps between calls, its tensors and attributes, and what a run changed (in a worker)."""

import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import torch

# A container of containers: a cache of keys and values by layer. What lies deeper is the module's configuration.
_DEPTH = 3


class Mark(NamedTuple):
    """A value as it was: the object itself, held so that no other takes its place, and what may change in it."""

    held: object
    content: object

    def is_same(self, other: "Mark | None") -> bool:
        """Whether the same object, or an equal number or text, still holds the same."""
        if other is None or self.held is not other.held:
            return False
        if not isinstance(self.content, list) or not isinstance(other.content, list):
            return self.content == other.content
        pairs = zip(self.content, other.content, strict=False)
        return len(self.content) == len(other.content) and all(one.is_same(more) for one, more in pairs)


class ModuleState:
    """A module's state at one time, to be compared with what it is later."""

    def __init__(self, module: "torch.nn.Module") -> None:
        self._module = module
        self._before = dict(_marks(module))

    def changed(self) -> list[str]:
        """The names of the parameters, buffers and attributes that are new or another since."""
        now = dict(_marks(self._module))
        return [name for name, mark in now.items() if not mark.is_same(self._before.get(name))]


def digest(tensor: "torch.Tensor") -> int:
    """A checksum of a tensor's values."""
    import torch

    values = tensor.detach().cpu()
    values = torch.view_as_real(values.resolve_conj()) if values.is_complex() else values
    kept = values.dtype if values.dtype is not torch.bfloat16 else torch.float32
    return zlib.crc32(values.to(kept).contiguous().numpy().tobytes())


def _marks(module: "torch.nn.Module") -> Iterator[tuple[str, Mark]]:
    import torch

    own = set(vars(torch.nn.Module()))
    for prefix, part in module.named_modules():
        for name, tensor in (*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)):
            yield f"{prefix}.{name}".lstrip("."), _mark(tensor, _DEPTH)
        if not isinstance(part, torch.jit.ScriptModule):  # whose attributes are no Python objects
            for name, value in vars(part).items():
                if name not in own:
                    yield f"{prefix}.{name}".lstrip("."), _mark(value, _DEPTH)


def _mark(value: object, depth: int) -> Mark:
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        # A tensor counts the writes to it, unless inference made it.
        return Mark(value, digest(value) if value.is_inference() else value._version)
    if isinstance(value, np.ndarray):
        return Mark(value, zlib.crc32(np.ascontiguousarray(value).tobytes()))
    if value is None or isinstance(value, bool | int | float | complex | str | bytes):
        return Mark(None, repr(value))
    if isinstance(value, Mapping) and depth:
        return Mark(value, [_mark(part, depth - 1) for part in value.values()])
    if isinstance(value, list | tuple | set | frozenset) and depth:
        return Mark(value, [_mark(part, depth - 1) for part in value])
    return Mark(value, None)
