"""What a library that converts graphs is given: a copy of its own, and only where the memory for it is there."""

import threading
from pathlib import Path

from tasks.core.errors import StepError
from tasks.core.files import copy_file
from tasks.core.memory import available_bytes
from tasks.runtimes.base import external_files

# Below it the estimate is not worth a refusal: what the library's own code takes is as much.
_LARGE_BYTES = 512 << 20


def weight_bytes(model: Path) -> int:
    """Bytes of a model's file and of those that hold its weights."""
    return sum(model.with_name(name).stat().st_size for name in (model.name, *external_files(model)))


def private_copy(model: Path, folder: Path) -> Path:
    """Copy a model with its weights: libraries write to their input, and refuse weights with several hard links."""
    folder.mkdir(parents=True)
    for name in (model.name, *external_files(model)):
        copy_file(model.with_name(name), folder / name, threading.Event())
    return folder / model.name


def check_memory(model: Path, what: str, factor: float, instead: str = "") -> None:
    """Refuse a large model for which `what`, which holds it `factor` times at its peak, lacks the memory.

    `instead` is what else could be done, as a beginning of the cure.
    """
    size = weight_bytes(model)
    needed, available = size * factor, available_bytes()
    if size > _LARGE_BYTES and needed > available:
        raise StepError(
            f"{what} holds a model about {factor:g} times in memory: {needed / 1e9:.0f} GB for the {size / 1e9:.1f} GB "
            f"of this one, and {available / 1e9:.0f} GB are available here",
            f"{instead}run it on a host with more memory, or take this precision out of `precisions`",
        )
