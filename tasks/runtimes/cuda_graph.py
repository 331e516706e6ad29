"""A CUDA graph of what one function puts on a pycuda stream, captured by cuda-bindings: pycuda has no capture."""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tasks.core.errors import StepError

if TYPE_CHECKING:
    import pycuda.driver as cuda


class CudaGraph:
    """An instantiated graph; `launch` puts it on the stream that it was captured from."""

    def __init__(self, stream: "cuda.Stream", enqueue: Callable[[], None]) -> None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            cure = "install cuda-bindings beside TensorRT, or set cuda_graph: false for this engine"
            raise StepError(f"CUDA graphs need cuda-bindings, which cannot be imported: {error}", cure) from error
        self._driver = driver
        self._stream = stream.handle
        mode = driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        _checked(driver.cuStreamBeginCapture(self._stream, mode))
        try:
            enqueue()
        finally:
            captured = _checked(driver.cuStreamEndCapture(self._stream))
        self._captured = captured
        self._graph = _checked(driver.cuGraphInstantiate(captured, 0))

    def launch(self) -> None:
        """Run all that was captured."""
        _checked(self._driver.cuGraphLaunch(self._graph, self._stream))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        _checked(self._driver.cuGraphExecDestroy(self._graph))
        _checked(self._driver.cuGraphDestroy(self._captured))


def _checked(returned: tuple[Any, ...]) -> Any:  # noqa: ANN401 - handles of a library without types
    """The value that a call of the driver returned; raise StepError for its error code."""
    code, *values = returned
    if int(code) != 0:
        raise StepError(f"CUDA graph: {code!s}", "set cuda_graph: false for this engine")
    return values[0] if values else None
