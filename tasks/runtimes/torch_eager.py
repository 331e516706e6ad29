"""The baseline that engines are compared with: the user's module in torch, eager, as it runs without trtflow."""

from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pydantic import JsonValue

from tasks.core.errors import UserCodeError
from tasks.core.tensors import Tensors
from tasks.runtimes import base

if TYPE_CHECKING:
    import torch


class TorchEagerSession:
    """A module as a session: there is no engine and no card.

    `inputs` are given in that order, or by their names where `by_name`. The module is run as it is: whoever made it has
    called `.eval()`. Outputs get the names `outputs` in the order in which torch.export flattens them.
    """

    def __init__(
        self, module: "torch.nn.Module", inputs: Sequence[str], outputs: Sequence[str], *, by_name: bool = False
    ) -> None:
        self._module = module
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._by_name = by_name
        self._resident = base.resident_bytes()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Nothing to free: the module is its owner's."""

    def infer(self, feeds: Tensors) -> Tensors:
        """Run once, numpy to numpy."""
        import torch

        args, kwargs = self._arguments(feeds)
        with torch.inference_mode():
            leaves = list(_leaves(self._module(*args, **kwargs)))
        if len(leaves) != len(self._outputs):
            raise UserCodeError(
                f"the module gives {len(leaves)} outputs, the exported graph has {len(self._outputs)}: {self._outputs}",
                "its outputs must not depend on how it is called",
            )
        return {name: leaf.cpu().numpy() for name, leaf in zip(self._outputs, leaves, strict=True)}

    def time(self, feeds: Tensors, seconds: float) -> base.Samples:
        """Time forward passes on tensors that are made beforehand."""
        import torch

        args, kwargs = self._arguments(feeds)
        with torch.inference_mode():
            return base.sample(lambda: self._module(*args, **kwargs), seconds)

    def memory(self) -> base.MemoryUse:
        """Host memory since the session was made; the module was there before."""
        return base.growth_since(self._resident)

    def layers(self) -> tuple[base.LayerTime, ...]:
        """Nothing: the baseline is timed as a whole."""
        return ()

    def settings(self) -> dict[str, JsonValue]:
        """Tell what its speed depends on: torch's defaults, which are what a user of the module has."""
        import torch

        return {
            "torch": str(torch.__version__),
            "threads": torch.get_num_threads(),
            "inter_op_threads": torch.get_num_interop_threads(),
        }

    def _arguments(self, feeds: Tensors) -> "tuple[list[torch.Tensor], dict[str, torch.Tensor]]":
        import torch

        if feeds.keys() != set(self._inputs):
            raise UserCodeError(f"the feeds have the names {sorted(feeds)}, the module takes {list(self._inputs)}")
        # Copied: arrays read from a file may be read-only, and a module may write into its inputs.
        tensors = {name: torch.tensor(feeds[name]) for name in self._inputs}
        return ([], tensors) if self._by_name else (list(tensors.values()), {})


def _leaves(value: object) -> "Iterator[torch.Tensor]":
    """Yield the tensors of an output in torch.export's order: depth first, as containers hold them, without None."""
    import torch

    match value:
        case torch.Tensor():
            yield value
        case None:
            return
        case Mapping():
            for part in value.values():
                yield from _leaves(part)
        case tuple() | list():
            for part in value:
                yield from _leaves(part)
        case _:
            raise UserCodeError(
                f"the module's output holds a {type(value).__name__}",
                "return tensors, or tuples, lists and dicts of tensors",
            )
