"""What workers are forked from, kept from one command to the next: a session imports torch once, not in every test."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks.runtimes import isolate
from tasks.runtimes.process import Zygote

# What differs from test to test and means nothing to a worker: it has a temporary folder of its own, and no store.
_OF_A_TEST = ("PYTEST_CURRENT_TEST", "TMPDIR", "AWS_", "TRTFLOW_")
# What torch's exporter imports when it is first called, which takes longer than a small export.
_EXPORTER = ("torch.export._trace", "onnxscript.function_libs.torch_lib.ops")


class _Kept(Zygote):
    """Goes on until the session ends, whichever run lets go of it."""

    def stop(self) -> None:
        """Go on."""

    def close(self) -> None:
        """Go on."""

    def end(self) -> None:
        """End in earnest."""
        super().stop()
        super().close()

    def of_no_use(self) -> bool:
        """Whether it could not start, or is gone."""
        return self._failure is not None or self.lost()

    def children(self) -> str:
        """The processes that it has forked and not seen end."""
        pid = self._process.pid
        try:
            return Path(f"/proc/{pid}/task/{pid}/children").read_text()
        except FileNotFoundError:
            return ""  # gone itself: the next command starts another


class Zygotes:
    """Takes the place of `Zygote`: where one like it was started in this environment, that one serves again."""

    def __init__(self) -> None:
        self.temporary = Path()
        self._kept: dict[object, _Kept] = {}

    def __call__(self, python: str, preload: tuple[str, ...], seconds: float) -> Zygote:
        surroundings = frozenset((name, text) for name, text in os.environ.items() if not name.startswith(_OF_A_TEST))
        found = self._kept.get((python, preload, surroundings))
        if found is not None and found.of_no_use():
            found.end()
            found = None
        if found is None:
            also = _EXPORTER if "torch.onnx" in preload else ()
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("TMPDIR", str(self.temporary))  # torch leaves a file there when it is imported
                found = self._kept[python, preload, surroundings] = _Kept(python, (*preload, *also), seconds)
        return found

    def at_work(self) -> list[str]:
        """Name the workers that are still there."""
        return [f"worker {pid}" for kept in self._kept.values() for pid in kept.children().split()]

    def end(self) -> None:
        """End them all."""
        while self._kept:
            self._kept.popitem()[1].end()


ZYGOTES = Zygotes()


@contextmanager
def kept_zygotes(temporary: Path) -> Iterator[None]:
    """Have every `Workers` of this process fork from what others have started."""
    ZYGOTES.temporary = temporary
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolate, "Zygote", ZYGOTES)
        try:
            yield
        finally:
            ZYGOTES.end()
