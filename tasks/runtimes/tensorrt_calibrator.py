"""int8 by TensorRT's own entropy calibrator: it runs the fp32 network on calibration data as it builds (8.6 only)."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tasks.core.errors import StepError
from tasks.core.feeds import cut, join, resize, samples_in
from tasks.core.signature import Signature
from tasks.core.tensors import Tensors, load_batches
from tasks.runtimes.tensorrt_errors import cuda_errors
from tasks.runtimes.tensorrt_profile import profile_of

if TYPE_CHECKING:
    from types import ModuleType

CACHE = "calibration.cache"


def calibration_batches(calibration: Path, signature: Signature) -> list[Tensors]:
    """Batches of the profile's opt sizes, the only ones that a calibrator is asked for.

    Whole batches only, so that no sample counts twice; where there are too few samples for one, they are repeated.
    """
    sizes = signature.sizes("opt")
    batch = signature.batch_dim()
    found = load_batches(calibration)
    if not found:
        raise StepError(f"{calibration} holds no batch", "a calibrator needs data: see data.calibration")
    if batch is None:
        return [resize(feeds, signature, sizes) for feeds in found]
    return list(_joined(found, signature, batch)) or [resize(found[0], signature, sizes)]


def _joined(found: list[Tensors], signature: Signature, batch: str) -> Iterator[Tensors]:
    """Samples of all batches, one after the other, in batches of the opt size."""
    size, axes = signature.dims[batch].opt, signature.batch_axes()
    # Other named dims, like the length of a text, may differ from batch to batch.
    fitting = [resize(feeds, signature, {**signature.sizes("opt"), batch: samples_in(feeds, axes)}) for feeds in found]
    whole = join(fitting, axes)
    for start in range(0, samples_in(whole, axes) - size + 1, size):
        yield cut(whole, start, start + size, axes)


class DeviceFeeds:
    """Device memory for one batch, filled again for each; its pointers are what a calibrator hands over."""

    def __init__(self, batches: list[Tensors]) -> None:
        import pycuda.driver as cuda

        self._cuda = cuda
        self._batches = iter(batches)
        self._memory: dict[str, cuda.DeviceAllocation] = {}
        # Here and not in a callback: an error that is raised in one is lost on its way through the library.
        with cuda_errors("it made room for calibration data"):
            for name, feed in batches[0].items():
                self._memory[name] = cuda.mem_alloc(max(feed.nbytes, 1))

    def next(self, names: list[str]) -> list[int] | None:
        """Addresses of the next batch, in the order of `names`; None after the last."""
        import numpy as np

        feeds = next(self._batches, None)
        if feeds is None:
            return None
        for name in names:
            self._cuda.memcpy_htod(self._memory[name], np.ascontiguousarray(feeds[name]))
        return [int(self._memory[name]) for name in names]

    def close(self) -> None:
        """Give the memory back."""
        for memory in self._memory.values():
            memory.free()
        self._memory.clear()


class Configured(Protocol):
    """A network that is about to be built."""

    builder: Any
    network: Any
    config: Any


@contextlib.contextmanager
def calibrating(
    trt: "ModuleType", build: Configured, calibration: Path | None, signature: Signature, folder: Path
) -> Iterator[None]:
    """For the length of a build, let TensorRT find the ranges if there is data."""
    if calibration is None:
        yield
        return
    from tasks.runtimes.tensorrt_session import Primary

    batches = [_cast(trt, build.network, feeds) for feeds in calibration_batches(calibration, signature)]
    primary = Primary()
    try:
        feeds = DeviceFeeds(batches)
        calibrator = calibrator_of(trt, feeds, samples_in(batches[0], signature.batch_axes()), folder / CACHE)
        build.config.int8_calibrator = calibrator
        profile = profile_of(build.builder, build.network, signature, ("opt", "opt", "opt"))
        if profile is not None:
            build.config.set_calibration_profile(profile)
        try:
            yield
        finally:
            feeds.close()
    finally:
        primary.close()


def _cast(trt: "ModuleType", network: Any, feeds: Tensors) -> Tensors:  # noqa: ANN401 - of a module value
    """Feeds in the types that the network takes: 8.6 turns int64 into int32."""
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    return {tensor.name: feeds[tensor.name].astype(trt.nptype(tensor.dtype)) for tensor in inputs}


def calibrator_of(trt: "ModuleType", feeds: DeviceFeeds, size: int, cache: Path) -> Any:  # noqa: ANN401
    """Make the calibrator; what it finds is written to `cache`, and nothing is read: the artifact's key decides."""

    class Calibrator(trt.IInt8EntropyCalibrator2):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return size

        def get_batch(self, names: list[str], *_: object) -> list[int] | None:
            return feeds.next(names)

        def read_calibration_cache(self, *_: object) -> None:
            return None

        def write_calibration_cache(self, found: Any, *_: object) -> None:  # noqa: ANN401 - a buffer
            cache.write_bytes(bytes(found))

    return Calibrator()
