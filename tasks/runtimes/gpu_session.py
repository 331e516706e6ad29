"""What a session on a GPU can do beside what every session can."""

from typing import Protocol, runtime_checkable

from tasks.core.frozen import Frozen
from tasks.core.tensors import Tensors
from tasks.runtimes.base import Samples, Session


class Transfers(Frozen):
    """Times of inferences in a row, by CUDA events: inputs to the GPU, the inference, outputs back; pinned memory."""

    h2d: Samples
    compute: Samples
    d2h: Samples


class Flow(Frozen):
    """Inferences that several streams ended in `nanoseconds`, each stream with an execution context of its own."""

    streams: int
    inferences: int
    nanoseconds: int


@runtime_checkable
class GpuSession(Session, Protocol):
    """An open engine on a GPU."""

    def inspection(self) -> str:
        """What the library tells of the engine's layers, as it tells it; empty where it does not."""

    def latencies(self, feeds: Tensors, seconds: float, *, graph: bool) -> Samples | None:
        """Time inferences launched one by one, or each as a captured graph; None where they cannot be captured."""

    def transfers(self, feeds: Tensors, seconds: float) -> Transfers:
        """Time the three parts of an inference from host memory to host memory."""

    def flow(self, feeds: Tensors, streams: int, seconds: float) -> Flow:
        """Keep so many streams busy, each from GPU memory to GPU memory."""
