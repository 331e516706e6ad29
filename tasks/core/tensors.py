"""Named tensors, and their files: a list of batches in one safetensors file."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Tensors: TypeAlias = "dict[str, NDArray[np.generic]]"


def save_batches(path: Path, batches: Sequence[Tensors]) -> None:
    """Write batches, in order, under the names `00000/<tensor>`, `00001/<tensor>`, ..."""
    import numpy as np
    from safetensors.numpy import save_file

    flat = {
        f"{index:05d}/{name}": np.asarray(tensor, order="C")
        for index, batch in enumerate(batches)
        for name, tensor in batch.items()
    }
    save_file(flat, path)


def load_batches(path: Path) -> list[Tensors]:
    """Read what `save_batches` wrote, in the same order."""
    from safetensors.numpy import load_file

    batches: dict[str, Tensors] = {}
    for name, tensor in sorted(load_file(path).items()):
        index, _, tensor_name = name.partition("/")
        batches.setdefault(index, {})[tensor_name] = tensor
    return [batches[index] for index in sorted(batches)]
