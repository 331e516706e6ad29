"""Whether a torch module is a function of its inputs: equal inputs give equal outputs, in fresh state (in a worker)."""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tasks.core.errors import UserCodeError
from tasks.core.tensors import Tensors

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle

Infer: TypeAlias = Callable[[Tensors], Tensors]
# Threads may add in another order each time: float32 rounds at 6e-8.
_ROUNDING = 1e-5
_CURE = "what is served must be a function of its inputs: leave that out of the module that the factory returns"


class Call(NamedTuple):
    """One call of a submodule: digests of what it was given and of what it gave."""

    name: str
    given: int
    gave: int


def check_factory(first: "torch.nn.Module", again: "torch.nn.Module", factory: str) -> None:
    """Raise UserCodeError where a factory makes other weights each time, and no checkpoint replaces them."""
    other = dict(_tensors(again))
    for name, tensor in _tensors(first):
        if name not in other or not _is_same(tensor, other[name]):
            raise UserCodeError(
                f"{factory} makes other weights each time it is called: {name!r} differs",
                "give a `checkpoint`, or seed the generators that the factory draws from",
            )


def _is_same(one: "torch.Tensor", other: "torch.Tensor") -> bool:
    import torch

    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def check_repeatable(module: "torch.nn.Module", infer: Infer, batches: Sequence[Tensors], factory: str) -> None:
    """Raise UserCodeError, with the submodule at fault, unless the module gives the same again for the same inputs."""
    first = infer(batches[0])
    for batch in batches[1:]:
        infer(batch)  # what is kept between calls is another now
    if not _alike(first, infer(batches[0])):
        raise UserCodeError(_difference(module, infer, batches, factory), _CURE)
    for name, part in module.named_modules():
        if part.training and _trains(part):
            raise UserCodeError(
                f"{factory}: {_called(name, part)} is in training mode while the module runs",
                "the module's code calls `.train()`, or sets `training`: leave that out of `forward`",
            )


def _trains(part: "torch.nn.Module") -> bool:
    """Whether training mode makes a layer do something else."""
    import torch

    kinds = (torch.nn.modules.batchnorm._BatchNorm, torch.nn.modules.dropout._DropoutNd)
    return isinstance(part, kinds)


def _alike(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    import numpy as np

    for name, values in one.items():
        left, right = np.asarray(values), np.asarray(other[name])
        if left.shape != right.shape or left.dtype != right.dtype:
            return False
        if left.dtype.kind != "f" and not np.array_equal(left, right):
            return False
        scale = float(np.abs(left, where=np.isfinite(left), out=np.zeros_like(left)).max(initial=0.0))
        if not np.allclose(left, right, rtol=_ROUNDING, atol=_ROUNDING * scale, equal_nan=True):
            return False
    return True


def _difference(module: "torch.nn.Module", infer: Infer, batches: Sequence[Tensors], factory: str) -> str:
    """Say what differs between two runs on the same inputs, and which submodule begins it."""
    drawn = _draws(infer, batches[0])
    what = "draws random numbers" if drawn else "depends on what it was run on before (a buffer or attribute changes)"
    at_fault = _first_different(module, infer, batches[0])
    where = "forward of the module itself" if at_fault is None else _called(at_fault, module.get_submodule(at_fault))
    return f"{factory}: two runs on the same inputs give other outputs: {where} {what}"


def _draws(infer: Infer, batch: Tensors) -> bool:
    """Whether the outputs follow torch's generator: with it put back, they are the same again."""
    import torch

    runs = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            runs.append(infer(batch))
    return _alike(*runs)


def _first_different(module: "torch.nn.Module", infer: Infer, batch: Tensors) -> str | None:
    """The innermost submodule that gives something else for the same; None where only the module itself does."""
    one, other = (_calls(module, infer, batch) for _ in range(2))
    for before, after in zip(one, other, strict=False):
        if before.given == after.given and before.gave != after.gave:
            return before.name or None
    return None


def _calls(module: "torch.nn.Module", infer: Infer, batch: Tensors) -> list[Call]:
    """Every call of a submodule in the order in which they end: an inner one before the one around it."""
    calls: list[Call] = []
    handles = [_hook(part, name, calls) for name, part in module.named_modules()]
    try:
        infer(batch)
    finally:
        for handle in handles:
            handle.remove()
    return calls


def _hook(part: "torch.nn.Module", name: str, calls: list[Call]) -> "RemovableHandle":
    def note(_: object, given: object, gave: object) -> None:
        calls.append(Call(name, _digest(given), _digest(gave)))

    return part.register_forward_hook(note)


def _digest(value: object) -> int:
    found = 0
    for tensor in _leaves(value):
        found = zlib.crc32(tensor.detach().cpu().contiguous().float().numpy().tobytes(), found)
    return found


def _leaves(value: object) -> "Iterator[torch.Tensor]":
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _leaves(part)


def _tensors(module: "torch.nn.Module") -> "Iterator[tuple[str, torch.Tensor]]":
    yield from module.named_parameters()
    yield from module.named_buffers()


def _called(name: str, part: "torch.nn.Module") -> str:
    return f"{name!r} ({type(part).__name__})" if name else f"the module itself ({type(part).__name__})"
