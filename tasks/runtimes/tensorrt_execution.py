"""One execution context of a TensorRT engine with a stream and buffers of its own, by pycuda (in a worker)."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from tasks.core.errors import StepError
from tasks.core.tensors import Tensors
from tasks.runtimes import base
from tasks.runtimes.base import EngineCard
from tasks.runtimes.tensorrt_errors import gpu_memory

if TYPE_CHECKING:
    from types import ModuleType

    import numpy as np
    import pycuda.driver as cuda
    from numpy.typing import NDArray

    from tasks.runtimes.tensorrt_network import Messages


class Buffer:
    """Memory of the GPU with pinned memory of the host for its contents; both grow, and are used again."""

    def __init__(self) -> None:
        self._size = 0
        self._memory: cuda.DeviceAllocation | None = None
        self._pinned: NDArray[np.uint8] | None = None

    def address(self, size: int) -> int:
        """Address on the GPU of at least `size` bytes."""
        import pycuda.driver as cuda

        if self._memory is None or size > self._size:
            self.free()
            self._memory, self._size = cuda.mem_alloc(max(size, 1)), size
        return int(self._memory)

    def pinned(self, size: int) -> "NDArray[np.uint8]":
        """Exactly `size` bytes on the host, the same each time as long as they suffice."""
        import numpy as np
        import pycuda.driver as cuda

        if self._pinned is None or size > self._pinned.nbytes:
            self._pinned = None  # freed before its successor is asked for
            self._pinned = cuda.pagelocked_empty(max(size, 1), np.uint8)
        return self._pinned[:size]

    def free(self) -> None:
        """Give the GPU's memory back."""
        if self._memory is not None:
            self._memory.free()
        self._memory, self._size = None, 0

    def close(self) -> None:
        """Give all memory back."""
        self.free()
        self._pinned = None


def output_allocator(trt: "ModuleType", buffer: Buffer) -> Any:  # noqa: ANN401 - of a module that is a value
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


class Execution:
    """Binds feeds to an execution context and runs it. What does not change between inferences is not done again."""

    def __init__(self, trt: "ModuleType", engine: Any, card: EngineCard, messages: "Messages") -> None:  # noqa: ANN401
        import pycuda.driver as cuda

        self._trt, self._engine, self._card, self._messages = trt, engine, card, messages
        self.context = engine.create_execution_context()
        if self.context is None:
            what = f"there is no memory for an execution context ({gpu_memory()})"
            raise messages.failure(what, "end what else uses the GPU, or make dims.max smaller")
        self.stream = cuda.Stream()
        self._buffers: dict[str, Buffer] = {}
        self._allocators: dict[str, Any] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._sizes: dict[str, int] = {}
        self._on_host = {spec.name for spec in card.inputs if self._is_on_host(spec.name)}

    def close(self) -> None:
        """Free everything: the context before the memory that it uses."""
        self.context = self._engine = None
        self._allocators.clear()
        for buffer in self._buffers.values():
            buffer.close()
        self._buffers.clear()
        del self.stream

    @property
    def allocates(self) -> bool:
        """Whether an output is allocated while it runs, which no CUDA graph can do."""
        return bool(self._allocators)

    def bind(self, feeds: Tensors) -> None:
        """Set shapes and addresses that changed, and put the inputs into pinned memory."""
        base.check_inputs(self._card, feeds)
        changed = [self._bind_input(name, feed) for name, feed in feeds.items()]
        if any(changed):
            for spec in self._card.outputs:
                self._bind_output(spec.name)

    def upload(self) -> None:
        """Enqueue the copies of the inputs to the GPU."""
        import pycuda.driver as cuda

        for spec in self._card.inputs:
            size = self._sizes[spec.name]
            if size and spec.name not in self._on_host:
                buffer = self._buffers[spec.name]
                cuda.memcpy_htod_async(buffer.address(size), buffer.pinned(size), self.stream)

    def enqueue(self) -> None:
        """Enqueue an inference."""
        if not self.context.execute_async_v3(self.stream.handle):
            raise self._messages.failure("the engine did not run", "see what TensorRT says; build it here again")

    def download(self) -> None:
        """Enqueue the copies of the outputs to pinned memory."""
        import pycuda.driver as cuda

        for spec in self._card.outputs:
            size = self._output_bytes(spec.name)
            if size:
                buffer = self._buffers[spec.name]
                cuda.memcpy_dtoh_async(buffer.pinned(size), buffer.address(size), self.stream)

    def outputs(self) -> Tensors:
        """What was downloaded, as arrays that are the caller's own."""
        return {spec.name: self._fetched(spec.name).astype(spec.dtype, copy=False) for spec in self._card.outputs}

    def run(self, feeds: Tensors) -> Tensors:
        """One inference, host memory to host memory."""
        self.bind(feeds)
        for stage in self.stages():
            stage()
        self.stream.synchronize()
        return self.outputs()

    def stages(self) -> tuple[Callable[[], None], ...]:
        """What an inference is made of, in order."""
        return self.upload, self.enqueue, self.download

    def ready(self, feeds: Tensors) -> None:
        """Bind, and run once: what a first run of a shape has to set up is not timed, and not captured."""
        self.bind(feeds)
        self.upload()
        self.enqueue()
        self.stream.synchronize()

    def _bind_input(self, name: str, feed: "NDArray[np.generic]") -> bool:
        """Whether a shape is another than before: its own, or one that its values decide."""
        import numpy as np

        buffer, dtype = self._buffers.setdefault(name, Buffer()), self._dtype(name)
        size = feed.size * int(dtype.itemsize)
        self._sizes[name] = size
        _check_fits(name, feed, dtype)
        pinned, on_host = buffer.pinned(size), name in self._on_host
        before = pinned.tobytes() if on_host else b""
        np.copyto(pinned.view(dtype).reshape(feed.shape), feed, casting="same_kind")
        self._set_address(name, int(pinned.ctypes.data) if on_host else buffer.address(size))
        if self._shapes.get(name) == feed.shape and not (on_host and before != pinned.tobytes()):
            return False
        if not self.context.set_input_shape(name, feed.shape):
            raise self._messages.failure(
                f"the engine does not take '{name}' as {list(feed.shape)}", "name its sizes in `dims`, and build again"
            )
        self._shapes[name] = feed.shape
        return True

    def _is_on_host(self, name: str) -> bool:
        """Whether TensorRT reads an input where the host has it, since shapes depend on its values."""
        return bool(self._engine.get_tensor_location(name) == self._trt.TensorLocation.HOST)

    def _bind_output(self, name: str) -> None:
        shape = tuple(self.context.get_tensor_shape(name))
        buffer = self._buffers.setdefault(name, Buffer())
        if name in self._allocators:
            return  # and once it ran, 8.6 gives the sizes of that run as its shape
        if any(size < 0 for size in shape):
            self._bind_allocated(name, buffer)
            return
        self._shapes[name] = shape
        self._set_address(name, buffer.address(self._output_bytes(name)))

    def _bind_allocated(self, name: str, buffer: Buffer) -> None:
        """Have room for all that may come, once: told another address later, 8.6 still writes to the one before."""
        buffer.address(self._most_bytes(name))
        self._allocators[name] = output_allocator(self._trt, buffer)
        self.context.set_output_allocator(name, self._allocators[name])

    def _most_bytes(self, name: str) -> int:
        """What an output may take at the largest sizes of the profile."""
        inputs = [spec.name for spec in self._card.inputs]
        now = {key: tuple(self.context.get_tensor_shape(key)) for key in inputs}
        for key in inputs:
            self.context.set_input_shape(key, tuple(self._engine.get_tensor_profile_shape(key, 0)[2]))
        most = int(self.context.get_max_output_size(name))
        for key, shape in now.items():
            self.context.set_input_shape(key, shape)
        return max(0, most)

    def _set_address(self, name: str, address: int) -> None:
        if self._addresses.get(name) != address:
            self.context.set_tensor_address(name, address)
            self._addresses[name] = address

    def _shape(self, name: str) -> tuple[int, ...]:
        allocator = self._allocators.get(name)
        return allocator.shape if allocator else self._shapes[name]

    def _output_bytes(self, name: str) -> int:
        import numpy as np

        return int(np.prod(self._shape(name), dtype=np.int64)) * int(self._dtype(name).itemsize)

    def _fetched(self, name: str) -> "NDArray[np.generic]":
        import numpy as np

        shape, dtype, size = self._shape(name), self._dtype(name), self._output_bytes(name)
        if not size:
            return np.empty(shape, dtype)
        fetched: NDArray[np.generic] = self._buffers[name].pinned(size).view(dtype).reshape(shape).copy()
        return fetched

    def _dtype(self, name: str) -> Any:  # noqa: ANN401 - a numpy dtype
        import numpy as np

        return np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))


def _check_fits(name: str, feed: "NDArray[np.generic]", dtype: "np.dtype[np.generic]") -> None:
    """TensorRT 8.6 has no int64, and none has float64: what it is given in a smaller type must have the same range."""
    import numpy as np

    if feed.dtype == dtype or feed.dtype.kind not in "iuf" or not feed.size:
        return
    limits = np.finfo(dtype.name) if feed.dtype.kind == "f" else np.iinfo(dtype.name)
    known = feed[np.isfinite(feed)]  # infinities stay what they are
    if known.size and (known.min() < limits.min or known.max() > limits.max):
        raise StepError(
            f"input '{name}' holds {feed.dtype} values beyond {dtype}, which the engine takes",
            "TensorRT 8.6 has no int64: keep them smaller, or build for a newer TensorRT",
        )
