"""Whether a module's code asks for values of its inputs, as `if x.sum() > 0` does, and at which line (in a worker).

What asks for sizes alone a trace may follow: graph and module are run at other sizes. What asks for values it may not:
the graph would hold for the values that were traced, and no check tries all others.
"""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

# They take no more than shape and type from their first argument.
_OF_SHAPE = frozenset({"empty_like", "full_like", "ones_like", "rand_like", "randn_like", "zeros_like"})
_NEW = frozenset({"new_empty", "new_empty_strided", "new_full", "new_ones", "new_zeros"})
_ASKS = frozenset({"_local_scalar_dense", "equal", "is_nonzero", "item"})


def asks_values(run: Callable[[], object], inputs: "dict[str, torch.Tensor]", project: Path) -> str | None:
    """Run a module, and name the first line that asks for a value that follows from its inputs; None: no line does."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Followed(TorchDispatchMode):
        """Sees every operator that runs, and marks what it writes where it reads what is marked."""

        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.marked = {tensor.untyped_storage()._cdata: tensor for tensor in inputs.values()}
            self.asked: str | None = None

        def __torch_dispatch__(
            self,
            func: Any,  # noqa: ANN401 - an operator of torch
            types: object,
            args: tuple[object, ...] = (),
            kwargs: dict[str, object] | None = None,
        ) -> object:
            name = func.overloadpacket.__name__
            given = [*_tensors(args), *_tensors(kwargs or {})]
            follows = any(tensor.untyped_storage()._cdata in self.marked for tensor in given)
            if follows and name in _ASKS:
                self.asked = self.asked or _line(sys._getframe(1), project)
            gave = func(*args, **(kwargs or {}))
            if follows and name not in _OF_SHAPE | _NEW:
                written = given[:1] if name.endswith("_") else []
                self.marked |= {each.untyped_storage()._cdata: each for each in (*_tensors(gave), *written)}
            return gave

    followed = Followed()
    with followed:
        run()
    return followed.asked


def _tensors(value: object) -> "Iterator[torch.Tensor]":
    import torch

    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)


def _line(frame: FrameType | None, project: Path) -> str:
    """The innermost line, and that of the user's own which led there."""
    innermost = ""
    while frame is not None:
        file = Path(frame.f_code.co_filename)
        if not innermost and "torch" in file.parts:  # torch's own way from the operator to here
            frame = frame.f_back
            continue
        innermost = innermost or f"{file.name}:{frame.f_lineno}"
        if file.is_relative_to(project) and "site-packages" not in file.parts:
            own = f"{file.relative_to(project)}:{frame.f_lineno}"
            return own if innermost == f"{file.name}:{frame.f_lineno}" else f"{innermost}, called at {own}"
        frame = frame.f_back
    return innermost
