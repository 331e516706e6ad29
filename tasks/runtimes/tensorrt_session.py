"""An open TensorRT engine on one GPU, by pycuda (in a worker)."""

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tasks.core.errors import StepError
from tasks.core.ranges import marked
from tasks.core.tensors import Tensors
from tasks.runtimes import base
from tasks.runtimes.base import EngineCard, LayerTime, MemoryUse, Samples
from tasks.runtimes.cuda_graph import CudaGraph
from tasks.runtimes.gpu_session import Flow, Transfers
from tasks.runtimes.tensorrt_errors import cuda_errors
from tasks.runtimes.tensorrt_execution import Execution
from tasks.runtimes.tensorrt_network import Messages, TensorRtOptions, load_plugins, logger_of
from tasks.runtimes.tensorrt_refit import restore_weights

if TYPE_CHECKING:
    from types import ModuleType

_PROFILED_RUNS = 20
# How many inferences wait on a stream: with one, it would idle while the host is with another stream.
_DEPTH = 2


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


class TensorRtSession:
    """An engine with one execution, and more of them while several streams are timed."""

    def __init__(self, trt: "ModuleType", engine: Path, card: EngineCard, options: TensorRtOptions) -> None:
        import pycuda.driver as cuda

        self._trt, self._card, self._options = trt, card, options
        self._resident = base.resident_bytes()
        self._messages = Messages()
        self._primary: Primary | None = Primary()
        self._free_before = cuda.mem_get_info()[0]
        self._session: Execution | None = None
        self._more: list[Execution] = []
        self._engine: Any = None
        try:
            self._engine = self._deserialised(engine)
            self._session = self._execution()
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
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise self._messages.failure(
                f"TensorRT {self._trt.__version__} does not open {path}", "build it here again"
            )
        if self._options.strip_plan:
            restore_weights(self._trt, engine, logger, path.parent / "model.onnx")
        return engine

    def _execution(self) -> Execution:
        return Execution(self._trt, self._engine, self._card, self._messages)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._close()

    def _close(self) -> None:
        """Free everything, contexts and engine before the memory that they use, then leave the GPU's context."""
        if self._primary is None:
            return
        self._fewer()
        if self._session is not None:
            self._session.close()
        self._session = self._engine = self._runtime = None
        self._primary.close()
        self._primary = None

    def infer(self, feeds: Tensors) -> Tensors:
        """Run once, host memory to host memory."""
        with marked("infer"), cuda_errors("it ran an inference"):
            return self._opened().run(feeds)

    def time(self, feeds: Tensors, seconds: float) -> Samples:
        """Time inferences by CUDA events, with inputs and outputs on the GPU; by a CUDA graph where it can be."""
        graphed = self.latencies(feeds, seconds, graph=True) if self._options.cuda_graph else None
        return graphed or self._launched(feeds, seconds)

    def latencies(self, feeds: Tensors, seconds: float, *, graph: bool) -> Samples | None:
        """Time inferences launched one by one, or each as a captured graph; None where they cannot be captured."""
        if not graph:
            return self._launched(feeds, seconds)
        execution = self._ready(feeds)
        if execution.allocates:
            return None
        with CudaGraph(execution.stream, execution.enqueue) as captured, marked("time with a CUDA graph"):
            return self._sampled([captured.launch], seconds)[0]

    def _launched(self, feeds: Tensors, seconds: float) -> Samples:
        execution = self._ready(feeds)
        with marked("time"):
            return self._sampled([execution.enqueue], seconds)[0]

    def transfers(self, feeds: Tensors, seconds: float) -> Transfers:
        """Time the three parts of an inference from host memory to host memory."""
        execution = self._ready(feeds)
        with marked("time transfers"):
            h2d, compute, d2h = self._sampled(execution.stages(), seconds)
        return Transfers(h2d=h2d, compute=compute, d2h=d2h)

    def _sampled(self, stages: Sequence[Callable[[], None]], seconds: float) -> list[Samples]:
        """Time each stage, again and again, between events on the stream."""
        import pycuda.driver as cuda

        stream = self._opened().stream
        events = [cuda.Event() for _ in range(len(stages) + 1)]
        taken: list[list[int]] = [[] for _ in stages]
        stop = time.perf_counter() + seconds
        while not taken[0] or time.perf_counter() < stop:
            events[0].record(stream)
            for stage, event in zip(stages, events[1:], strict=True):
                stage()
                event.record(stream)
            events[-1].synchronize()
            for times, begin, end in zip(taken, events, events[1:], strict=False):
                times.append(max(1, round(end.time_since(begin) * 1e6)))
        return [Samples(nanoseconds=tuple(times)) for times in taken]

    def flow(self, feeds: Tensors, streams: int, seconds: float) -> Flow:
        """Keep so many streams busy, each from GPU memory to GPU memory."""
        first = self._opened()
        try:
            while len(self._more) < streams - 1:
                self._more.append(self._execution())
            with ExitStack() as stack:
                lanes = [
                    _Lane(execution, self._launcher(execution, feeds, stack))
                    for execution in (first, *self._more[: streams - 1])
                ]
                with marked(f"{streams} streams"):
                    return _busy(lanes, seconds)
        finally:
            self._fewer()

    def _launcher(self, execution: Execution, feeds: Tensors, stack: ExitStack) -> Callable[[], None]:
        with cuda_errors("it prepared several streams"):
            execution.ready(feeds)
        if not self._options.cuda_graph or execution.allocates:
            return execution.enqueue
        return stack.enter_context(CudaGraph(execution.stream, execution.enqueue)).launch

    def _fewer(self) -> None:
        """Close all executions but the first."""
        for execution in self._more:
            execution.close()
        self._more.clear()

    def memory(self) -> MemoryUse:
        """What the session added: host memory of the process, and memory of the GPU, which others may use too."""
        import pycuda.driver as cuda

        used = self._free_before - cuda.mem_get_info()[0]
        return MemoryUse(host_bytes=base.growth_since(self._resident).host_bytes, device_bytes=max(0, used))

    def inspection(self) -> str:
        """The engine inspector's JSON, for the shapes that were bound last."""
        execution = self._opened()
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = execution.context  # else sizes that may vary, and formats, are left out
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def layers(self) -> tuple[LayerTime, ...]:
        """Time every layer for the inputs that were bound last: the median of several runs."""
        execution, profiler = self._opened(), _profiler(self._trt)
        execution.context.profiler = profiler
        # Reported by a call of its own, after the run: to report while enqueuing would wait inside of it.
        execution.context.enqueue_emits_profile = False
        try:
            for _ in range(_PROFILED_RUNS):
                execution.enqueue()
                execution.stream.synchronize()
                if not execution.context.report_to_profiler():
                    raise self._messages.failure("TensorRT timed no layers", "see what it says")
        finally:
            execution.context.enqueue_emits_profile = True
            execution.context.profiler = None
        # The first run also sets up what the others find.
        return tuple(
            LayerTime(name=name, kind="", nanoseconds=round(statistics.median(times[1:]) * 1e6))
            for name, times in profiler.times.items()
        )

    def _ready(self, feeds: Tensors) -> Execution:
        execution = self._opened()
        with cuda_errors("it prepared to time inferences"):
            execution.ready(feeds)
        return execution

    def _opened(self) -> Execution:
        if self._session is None:
            raise StepError("this TensorRT session is closed", "use it inside its `with` block")
        return self._session


def _profiler(trt: "ModuleType") -> Any:  # noqa: ANN401 - of a module that is a value
    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, list[float]] = {}

        def report_layer_time(self, layer: str, milliseconds: float) -> None:
            self.times.setdefault(layer, []).append(milliseconds)

    return Profiler()


class _Lane:
    """A stream with what is launched on it, and the events that say when that ended."""

    def __init__(self, execution: Execution, launch: Callable[[], None]) -> None:
        import pycuda.driver as cuda

        self._stream, self._launch = execution.stream, launch
        self._events = [cuda.Event() for _ in range(_DEPTH)]
        self.launched = 0

    def go(self) -> None:
        """Launch one more as soon as there is room on the stream."""
        event = self._events[self.launched % _DEPTH]
        if self.launched >= _DEPTH:
            event.synchronize()
        self._launch()
        event.record(self._stream)
        self.launched += 1

    def end(self) -> None:
        """Wait for all that was launched."""
        self._stream.synchronize()


def _busy(lanes: list[_Lane], seconds: float) -> Flow:
    begin = time.perf_counter_ns()
    while not lanes[0].launched or time.perf_counter_ns() - begin < seconds * 1e9:
        for lane in lanes:
            lane.go()
    for lane in lanes:
        lane.end()
    taken = time.perf_counter_ns() - begin
    return Flow(streams=len(lanes), inferences=sum(lane.launched for lane in lanes), nanoseconds=max(1, taken))
