"""Named ranges of a timeline, for profilers that read NVTX: nothing where the package `nvtx` is not installed."""

import contextlib
import importlib.util
from collections.abc import Iterator
from functools import cache

_DOMAIN = "trtflow"


@contextlib.contextmanager
def marked(name: str) -> Iterator[None]:
    """A range around a block, seen by Nsight Systems and its like."""
    if not available():
        yield
        return
    import nvtx

    with nvtx.annotate(name, domain=_DOMAIN):
        yield


@cache
def available() -> bool:
    """Whether the package `nvtx` is installed."""
    return importlib.util.find_spec("nvtx") is not None
