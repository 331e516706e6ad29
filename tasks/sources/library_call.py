"""Call a library that converts graphs: in a folder of its own, with deep recursion, its exceptions in our words."""

import contextlib
import re
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tasks.core.errors import DoesNotApply, TrtflowError

T = TypeVar("T")

# A frame of Python for each node of a chain, several times over; stack that is not touched takes no memory.
_RECURSION_LIMIT = 1_000_000
_STACK_BYTES = 1 << 30
_MESSAGE_LENGTH = 300
# What Python raises where a library has a fault of its own: its text names no cause that a user could know.
_FAULTS = (AssertionError, AttributeError, IndexError, KeyError, NameError, TypeError, RecursionError)


def call_library(what: str, folder: Path, run: Callable[[], T], cure: str) -> T:
    """Run `run`; what it raises becomes a DoesNotApply that says `what` failed and offers the cure."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.chdir(folder), _deep() as deep:
            return deep(run)
    except (TrtflowError, MemoryError):
        raise
    except Exception as error:
        raise DoesNotApply(f"{what}: {_plain(error)}", cure) from error


@contextlib.contextmanager
def _deep() -> Iterator[Callable[[Callable[[], T]], T]]:
    """Have a function run in a thread whose stack holds one frame for each node of a long chain, and more."""
    limit, stack = sys.getrecursionlimit(), threading.stack_size(_STACK_BYTES)
    sys.setrecursionlimit(_RECURSION_LIMIT)
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:
            yield lambda run: thread.submit(run).result()
    finally:
        sys.setrecursionlimit(limit)
        threading.stack_size(stack)


def _plain(error: Exception) -> str:
    """What a library raised, without names of Python's own."""
    said = " ".join(str(error).split())
    said = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", said)
    said = re.sub(r"\b(?:[A-Z]\w*)?(?:Error|Exception)\b:?\s*", "", said)[:_MESSAGE_LENGTH]
    if isinstance(error, RecursionError):
        return "its nodes stand in too long a row"
    if isinstance(error, _FAULTS):
        return f"a fault inside it stopped it{f' ({said})' if said else ''}"
    return said or "it gives no reason"
