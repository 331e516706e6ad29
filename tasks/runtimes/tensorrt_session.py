"""An open TensorRT engine on one GPU: pinned host buffers, device buffers, one stream, by pycuda (in a worker)."""

import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tasks.core.errors import StepError
from tasks.core.tensors import Tensors
from tasks.runtimes import base
from tasks.runtimes.base import EngineCard, LayerTime, MemoryUse, Samples
from tasks.runtimes.cuda_graph import CudaGraph
from tasks.runtimes.tensorrt_errors import cuda_errors, gpu_memory
from tasks.runtimes.tensorrt_network import Messages, TensorRtOptions, load_plugins, logger_of
from tasks.runtimes.tensorrt_refit import restore_weights

if TYPE_CHECKING:
    from types import ModuleType

    import pycuda.driver as cuda


class Primary:
    """The GPU's primary context, current as long as this is open: what every library of the process shares."""

    def __init__(self, index: int = 0) -> None:
        try:
            import pycuda.driver as cuda
        except ImportError as error:
            cure = "install it beside TensorRT: it is in the extras tensorrt86, tensorrt10 and tensorrt11"
            raise StepError(f"pycuda, by which TensorRT engines run, cannot be imported: {error}", cure) from error
        cuda.init()
        if index >= cuda.Device.count():
            raise StepError(f"there is no GPU {index} here: {cuda.Device.count()} found", "run where the GPU is")
        self._context = cuda.Device(index).retain_primary_context()
        self._context.push()

    def close(self) -> None:
        """Leave the context; with the last that does, the driver frees all memory in it."""
        self._context.pop()
        self._context.detach()


class _Buffer:
    """Device memory that grows and is used again, with a pinned buffer on the host for its contents."""

    def __init__(self) -> None:
        self._size = 0
        self._memory: cuda.DeviceAllocation | None = None

    def address(self, size: int) -> int:
        """Address of at least `size` bytes."""
        import pycuda.driver as cuda

        if self._memory is None or size > self._size:
            self.free()
            self._memory, self._size = cuda.mem_alloc(max(size, 1)), size
        return int(self._memory)

    def free(self) -> None:
        """Give the memory back."""
        if self._memory is not None:
            self._memory.free()
        self._memory, self._size = None, 0


def output_allocator(trt: "ModuleType", buffer: _Buffer) -> Any:  # noqa: ANN401 - of a module that is a value
    """Give memory to an output whose shape only running tells."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.shape: tuple[int, ...] = ()

        def reallocate_output(self, name: str, memory: object, size: int, alignment: int) -> int:
            del name, memory, alignment
            return buffer.address(size)

        def reallocate_output_async(self, name: str, memory: object, size: int, alignment: int, stream: int) -> int:
            del stream
            return self.reallocate_output(name, memory, size, alignment)

        def notify_shape(self, name: str, shape: Iterable[int]) -> None:
            del name
            self.shape = tuple(shape)

    return Allocator()


class TensorRtSession:
    """One execution context on one stream."""

    def __init__(self, trt: "ModuleType", engine: Path, card: EngineCard, options: TensorRtOptions) -> None:
        import pycuda.driver as cuda

        self._trt, self._card, self._options = trt, card, options
        self._resident = base.resident_bytes()
        self._messages = Messages()
        self._primary: Primary | None = Primary()
        self._free_before = cuda.mem_get_info()[0]
        self._stream = cuda.Stream()
        self._buffers: dict[str, _Buffer] = {}
        self._allocators: dict[str, Any] = {}
        try:
            self._session = self._deserialised(engine)
        except BaseException:
            self._close()
            raise

    def _deserialised(self, path: Path) -> Any:  # noqa: ANN401 - of a module value
        load_plugins(self._options.plugins)
        logger = logger_of(self._trt, self._messages)
        if hasattr(self._trt, "init_libnvinfer_plugins"):  # the lean runtime carries no plugins
            self._trt.init_libnvinfer_plugins(logger, "")
        self._runtime = self._trt.Runtime(logger)
        if self._card.settings.get("version_compatible"):
            self._runtime.engine_host_code_allowed = True  # the store verified that the plan is the one we made
        self._engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if self._engine is None:
            raise self._messages.failure(
                f"TensorRT {self._trt.__version__} does not open {path}", "build it here again"
            )
        if self._options.strip_plan:
            restore_weights(self._trt, self._engine, logger, path.parent / "model.onnx")
        context = self._engine.create_execution_context()
        if context is None:
            what = f"there is no memory for an execution context ({gpu_memory()})"
            raise self._messages.failure(what, "end what else uses the GPU, or make dims.max smaller")
        return context

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._close()

    def _close(self) -> None:
        """Free everything, context and engine before the memory that they use, then leave the GPU's context."""
        if self._primary is None:
            return
        self._session = self._engine = self._runtime = None
        self._allocators.clear()
        for buffer in self._buffers.values():
            buffer.free()
        self._buffers.clear()
        del self._stream
        self._primary.close()
        self._primary = None

    def infer(self, feeds: Tensors) -> Tensors:
        """Run once, host memory to host memory."""
        with cuda_errors("it ran an inference"):
            self._bind(feeds)
            self._enqueue()
            self._stream.synchronize()
            return {spec.name: self._fetched(spec.name) for spec in self._card.outputs}

    def time(self, feeds: Tensors, seconds: float) -> Samples:
        """Time inferences by CUDA events, with inputs and outputs on the GPU; by a CUDA graph where it can be."""
        with cuda_errors("it prepared to time inferences"):
            self._bind(feeds)
            self._enqueue()
            self._stream.synchronize()
        if not self._options.cuda_graph or self._allocators:
            return self._sampled(self._enqueue, seconds)
        with CudaGraph(self._stream, self._enqueue) as graph:
            return self._sampled(graph.launch, seconds)

    def _sampled(self, launch: Any, seconds: float) -> Samples:  # noqa: ANN401
        import pycuda.driver as cuda

        begin, end = cuda.Event(), cuda.Event()
        nanoseconds: list[int] = []
        stop = time.perf_counter() + seconds
        while not nanoseconds or time.perf_counter() < stop:
            begin.record(self._stream)
            launch()
            end.record(self._stream)
            end.synchronize()
            nanoseconds.append(max(1, round(end.time_since(begin) * 1e6)))
        return Samples(nanoseconds=tuple(nanoseconds))

    def memory(self) -> MemoryUse:
        """What the session added: host memory of the process, and memory of the GPU, which others may use too."""
        import pycuda.driver as cuda

        used = self._free_before - cuda.mem_get_info()[0]
        return MemoryUse(host_bytes=base.growth_since(self._resident).host_bytes, device_bytes=max(0, used))

    def layers(self) -> tuple[LayerTime, ...]:
        """Time every layer of one run of the inputs that were bound last."""
        trt, found = self._trt, []

        class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                trt.IProfiler.__init__(self)

            def report_layer_time(self, layer: str, milliseconds: float) -> None:
                found.append(LayerTime(name=layer, kind="", nanoseconds=round(milliseconds * 1e6)))

        self._opened().profiler = Profiler()
        self._enqueue()
        self._stream.synchronize()
        self._opened().profiler = None
        return tuple(found)

    def _bind(self, feeds: Tensors) -> None:
        """Set shapes and addresses, and copy the inputs."""
        import numpy as np
        import pycuda.driver as cuda

        context = self._opened()
        base.check_inputs(self._card, feeds)
        for name, feed in feeds.items():
            context.set_input_shape(name, feed.shape)
            host = cuda.pagelocked_empty(feed.shape, feed.dtype)
            np.copyto(host, feed)
            address = self._buffer(name).address(host.nbytes)
            cuda.memcpy_htod_async(address, host, self._stream)
            self._stream.synchronize()
            context.set_tensor_address(name, address)
        for spec in self._card.outputs:
            self._bind_output(spec.name)

    def _bind_output(self, name: str) -> None:
        import numpy as np

        context = self._opened()
        shape = tuple(context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            self._allocators.setdefault(name, output_allocator(self._trt, self._buffer(name)))
            context.set_output_allocator(name, self._allocators[name])
            return
        size = int(np.prod(shape, dtype=np.int64)) * self._dtype(name).itemsize
        context.set_tensor_address(name, self._buffer(name).address(size))

    def _fetched(self, name: str) -> Any:  # noqa: ANN401 - an array of the engine's dtype
        import pycuda.driver as cuda

        allocator = self._allocators.get(name)
        shape = allocator.shape if allocator else tuple(self._opened().get_tensor_shape(name))
        host = cuda.pagelocked_empty(shape, self._dtype(name))
        if host.nbytes:
            cuda.memcpy_dtoh_async(host, self._buffer(name).address(host.nbytes), self._stream)
            self._stream.synchronize()
        return host.copy()

    def _enqueue(self) -> None:
        if not self._opened().execute_async_v3(self._stream.handle):
            raise self._messages.failure("the engine did not run", "see what TensorRT says; build it here again")

    def _buffer(self, name: str) -> _Buffer:
        return self._buffers.setdefault(name, _Buffer())

    def _dtype(self, name: str) -> Any:  # noqa: ANN401 - a numpy dtype
        import numpy as np

        return np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))

    def _opened(self) -> Any:  # noqa: ANN401 - of a module value
        if self._primary is None:
            raise StepError("this TensorRT session is closed", "use it inside its `with` block")
        return self._session
