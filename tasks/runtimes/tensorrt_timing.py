"""A builder's timing cache: begun with what earlier builds timed, and merged with what others did meanwhile."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.environment import gpu_host
from tasks.runtimes.timing_cache import TimingCacheUse, timing_cache_file

if TYPE_CHECKING:
    from types import ModuleType


class TimedTactics:
    """The cache of one build."""

    def __init__(self, trt: "ModuleType", config: Any, folder: Path) -> None:  # noqa: ANN401 - of a module value
        made_by = {"module": trt.__name__, "version": trt.__version__, **gpu_host()}
        self._config = config
        self._file = timing_cache_file(folder, made_by)
        before, self._note = self._file.read()
        self._before = len(before)
        self._cache = self._read(before)
        if before and (self._cache is None or not config.set_timing_cache(self._cache, False)):  # noqa: FBT003
            self._note = f"TensorRT refused the timing cache {self._file.path.name}: it was started afresh"
            self._before, before = 0, b""
        if not before:
            self._cache = self._read(b"")
            config.set_timing_cache(self._cache, False)  # noqa: FBT003 - by position, as every version takes it

    def release(self) -> None:
        """Let go of the cache and its config, before what they were made by (see Parsed.release)."""
        self._cache = self._config = None

    def keep(self) -> TimingCacheUse:
        """Write what this build timed, merged with what others have written since it began."""
        size, note = self._file.merge(self._with)
        notes = "; ".join(filter(None, (self._note, note)))
        return TimingCacheUse(bytes_before=self._before, bytes_after=size, note=notes)

    def _with(self, others: bytes) -> bytes:
        other = self._read(others) if others else None
        if other is not None:
            self._cache.combine(other, False)  # noqa: FBT003
        return bytes(self._cache.serialize())

    def _read(self, content: bytes) -> Any:  # noqa: ANN401
        return self._config.create_timing_cache(content)
