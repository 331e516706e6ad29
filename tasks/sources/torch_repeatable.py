"""Whether a torch module is a function of its inputs: equal inputs give equal outputs, in fresh state (in a worker)."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from tasks.core.errors import StepError, UserCodeError
from tasks.core.tensors import Tensors
from tasks.sources.torch_state import ModuleState, digest

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle

Infer: TypeAlias = Callable[[Tensors], Tensors]
# Threads may add in another order each time: float32 rounds at 6e-8.
_ROUNDING = 1e-5
_SHOWN = 3
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


@dataclass(frozen=True)
class Repeatable:
    """A module that is checked: `state` is what it held before its first run, `infer` runs it."""

    module: "torch.nn.Module"
    state: ModuleState
    infer: Infer
    factory: str

    def check(self, batches: Sequence[Tensors]) -> list[Tensors]:
        """Raise UserCodeError, with what is at fault, unless the module gives the same again for the same inputs.

        Returns its outputs.
        """
        try:
            outputs = [self.infer(batch) for batch in batches]
            again = self.infer(batches[0])  # what is kept between calls is that of another batch now
        except StepError as error:
            raise self._not_again(error) from error
        if not _alike(outputs[0], again):
            raise UserCodeError(self._difference(batches[0]), _CURE)
        for name, part in self.module.named_modules():
            if part.training and _trains(part):
                raise UserCodeError(
                    f"{self.factory}: {self._called(name)} is in training mode while the module runs",
                    "the module's code calls `.train()`, or sets `training`: leave that out of `forward`",
                )
        return outputs

    def check_fresh(self, fresh: Infer, batches: Sequence[Tensors], outputs: Sequence[Tensors]) -> None:
        """Raise UserCodeError where a module made anew and run in another order gives something else.

        A module that keeps what it saw first gives the same from then on: only a fresh one tells. Where nothing
        was kept, one batch is enough.
        """
        changed = self.state.changed()
        pairs = list(zip(batches, outputs, strict=True))[::-1]
        if all(_alike(known, fresh(batch)) for batch, known in (pairs if changed else pairs[:1])):
            return
        if changed:
            told = f"the outputs depend on what the module was run on first: {_listed(changed)} then"
            raise UserCodeError(f"{self.factory}: {told}", _CURE)
        raise UserCodeError(
            f"{self.factory} makes another module each time it is called: it gives other outputs on the same inputs",
            "seed the generators that the factory draws from",
        )

    def _not_again(self, error: StepError) -> StepError:
        """A run that fails because an earlier one left something behind says so."""
        changed = self.state.changed()
        if not changed:
            return error
        told = f"{self.factory}: the module may run only once: {_listed(changed)} in a run. Then {error.message}"
        return UserCodeError(told, _CURE, error.detail)

    def _difference(self, batch: Tensors) -> str:
        """Say what differs between two runs on the same inputs, and which submodule begins it."""
        changed = self.state.changed()
        if _draws(self.infer, batch):
            what = "draws random numbers"
        elif changed:
            what = f"depends on what it was run on before: {_listed(changed)}"
        else:
            what = "draws random numbers, or reads what changes by itself (a clock, a global)"
        at_fault = _first_different(self.module, self.infer, batch)
        where = "forward of the module itself" if at_fault is None else self._called(at_fault)
        return f"{self.factory}: two runs on the same inputs give other outputs: {where} {what}"

    def _called(self, name: str) -> str:
        kind = type(self.module.get_submodule(name)).__name__
        return f"{name!r} ({kind})" if name else f"the module itself ({kind})"


def _is_same(one: "torch.Tensor", other: "torch.Tensor") -> bool:
    import torch

    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return torch.equal(one, other)
    return bool(((one == other) | (one.isnan() & other.isnan())).all())


def _listed(changed: Sequence[str]) -> str:
    named = ", ".join(map(repr, changed[:_SHOWN]))
    more = f" and {len(changed) - _SHOWN} more" if len(changed) > _SHOWN else ""
    return f"{named}{more} {'changes' if len(changed) == 1 else 'change'}"


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


def _draws(infer: Infer, batch: Tensors) -> bool:
    """Whether a run takes from a generator, and its outputs follow it: put back, they are the same again."""
    import random

    import numpy as np
    import torch

    kept = random.getstate(), np.random.get_state()
    runs: list[Tensors] = []
    try:
        for _ in range(2):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                np.random.seed(0)
                random.seed(0)
                before = _generators()
                runs.append(infer(batch))
                moved = _generators() != before
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
    return moved and _alike(*runs)


def _generators() -> tuple[object, ...]:
    """The state of every generator that code draws from without naming one."""
    import random

    import numpy as np
    import torch

    return random.getstate(), repr(np.random.get_state(legacy=False)), torch.get_rng_state().numpy().tobytes()


def _first_different(module: "torch.nn.Module", infer: Infer, batch: Tensors) -> str | None:
    """The innermost submodule that gives something else for the same; None where only the module itself does."""
    one, other = (_calls(module, infer, batch) for _ in range(2))
    for before, after in zip(one, other, strict=False):
        if before.name == after.name and before.given == after.given and before.gave != after.gave:
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
    def note(_: object, given: object, by_name: object, gave: object) -> None:
        calls.append(Call(name, _digest((given, by_name)), _digest(gave)))

    return part.register_forward_hook(note, with_kwargs=True)


def _digest(value: object) -> int:
    return hash(tuple(digest(tensor) for tensor in _leaves(value)))


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
