"""What every runtime has in common: the values it takes and gives, and the two Protocols it satisfies."""

import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Protocol, Self

from pydantic import Field, JsonValue, ValidationError

from tasks.core.errors import StepError
from tasks.core.files import link_or_copy
from tasks.core.frozen import Frozen
from tasks.core.range_points import RangePoint
from tasks.core.signature import DimRange, Signature
from tasks.core.tensors import Tensors
from tasks.runtimes.external_data import external_names, external_tensors, read_in
from tasks.runtimes.timing_cache import TimingCacheUse

if TYPE_CHECKING:
    import onnx


ENGINE = "model.engine"
CARD = "card.json"


class Capabilities(Frozen):
    """What a runtime can do on this host, or why it is not available here and what would cure that.

    `not_run` is why one that is available builds engines here, and runs none.
    """

    runtime: str
    available: bool
    version: str = ""
    reason: str = ""
    cure: str = ""
    devices: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    profiles: bool = False
    refit: bool = False
    streams: bool = False
    layers: bool = False
    not_run: str = ""


class TensorSpec(Frozen):
    """One input or output: a dim is a size, the name of a dim, or "?" where only running the model tells.

    `dtype` is the model's, which sessions take and give. `engine_dtype` is that of the engine's own memory where it is
    another one, and what a program that runs the engine without trtflow has to convert to and from.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    engine_dtype: str = ""


class EngineCard(Frozen):
    """An engine's identity: what made it, what it is bound to, what it takes and gives, and how to open it.

    `verified` is the smallest and the largest size of each dim at which the engine was run against the source; empty in
    cards of engines that were not run where they were built, and in older ones.
    """

    card_version: Literal[1] = 1
    runtime: str
    runtime_version: str
    precision: str
    device: str
    host: dict[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dims: dict[str, DimRange]
    settings: dict[str, JsonValue]
    engine_bytes: int
    engine_sha256: str
    verified: dict[str, tuple[int, int]] = Field(default_factory=dict)


class EarlierBuild(Frozen):
    """An engine that was built the same way, for a graph of the given structure, and how long its builds took.

    `folder` holds it where it may be refitted. `cold_seconds` is of the newest build that no timing cache helped.
    """

    structure: str
    artifact: str
    folder: Path | None
    built_seconds: float | None
    cold_seconds: float | None


class BuildRequest(Frozen):
    """Compile `model`, typed ONNX of kind `precision`, into `folder`, and check it on `golden`, a file of batches.

    `links` tells that the caller gives the files that the reply names a second name in `folder`; else the runtime does.
    `calibration` is there where the runtime itself lowers the precision. `exported` is what the graph was made from,
    and tells where nodes come from. `timing_caches` and `earlier` save time, and decide nothing.
    `module` is what is imported for it, where that is not what the runtime is named after.
    `range` are the sizes at which the engine is then run on golden inputs: those at which the source ran.
    """

    runtime: str
    model: Path
    precision: str
    signature: Signature
    golden: Path
    host: dict[str, str]
    options: dict[str, JsonValue]
    folder: Path
    links: bool = False
    calibration: Path | None = None
    exported: Path | None = None
    timing_caches: Path | None = None
    earlier: tuple[EarlierBuild, ...] = ()
    module: str = ""
    range: tuple[RangePoint, ...] = ()


class EngineRange(Frozen):
    """Where an engine was run over the declared range: `ran` are points of the request, `failed` says why one did not.

    `too_large` are those that would have taken too long, or too much memory.
    """

    ran: tuple[RangePoint, ...] = ()
    failed: tuple[tuple[RangePoint, str], ...] = ()
    too_large: tuple[RangePoint, ...] = ()


class BuildMetrics(Frozen):
    """What a build made: `rejected` has one sentence for each optimisation that was tried and refused.

    `not_run` is why the engine does not run here, or why there is none. `agreement_rel_l2` is the distance from the
    unoptimised graph where the build itself looked at it.
    `unchanged` are files of the model that the engine uses as they are, by their names beside the engine.
    unoptimised graph where the build itself looked at it. `way` is how the engine came to be, `way_reason` why not by a
    refit, or from what; `seconds` is what that took, the builds of `earlier` what it is to be held against.
    """

    size_bytes: int
    optimization: str
    rejected: tuple[str, ...]
    agreement_rel_l2: float | None
    not_run: str = ""
    unchanged: dict[str, str] = Field(default_factory=dict)
    structure: str = ""
    way: Literal["built", "refitted"] = "built"
    way_reason: str = ""
    seconds: float | None = None
    earlier: EarlierBuild | None = None
    timing_cache: TimingCacheUse | None = None
    range: EngineRange = EngineRange()


class OpenOptions(Frozen):
    """What may differ each time an engine is opened; None takes what the card says. `timed`: nothing runs beside it.

    `module` is what is imported to run it, where that is not what the runtime is named after.
    """

    threads: int | None = None
    timed: bool = True
    module: str = ""


class Samples(Frozen):
    """Raw times, one per inference, in the order in which they were taken."""

    nanoseconds: tuple[int, ...]


class MemoryUse(Frozen):
    """What an open engine holds beyond what its process held before."""

    host_bytes: int
    device_bytes: int


class LayerTime(Frozen):
    """Time that one layer of an engine took."""

    name: str
    kind: str
    nanoseconds: int


class Session(Protocol):
    """An open engine; leaving its context frees what it holds."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def infer(self, feeds: Tensors) -> Tensors:
        """Run once, host memory to host memory."""

    def time(self, feeds: Tensors, seconds: float) -> Samples:
        """Run for `seconds`, at least once, and time each run."""

    def memory(self) -> MemoryUse:
        """Tell what the session holds now."""

    def layers(self) -> tuple[LayerTime, ...]:
        """Time every layer of one run; empty where the runtime cannot."""


class Runtime(Protocol):
    """Compiles typed graphs into engines and opens them."""

    def probe(self) -> Capabilities:
        """Tell what works here, or why nothing does; never raises for a library that is missing."""

    def build(self, request: BuildRequest, folder: Path) -> BuildMetrics:
        """Write `model.engine` and `card.json` into `folder`."""

    def open(self, engine: Path, card: EngineCard, options: OpenOptions) -> Session:
        """Open an engine; a card that does not fit this host is refused before anything is loaded."""


def read_card(path: Path) -> EngineCard:
    """Read a card.json."""
    try:
        return EngineCard.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        raise StepError(f"{path} is missing: no engine opens without its card", "build the engine again") from error
    except ValidationError as error:
        cure = "build the engine again with this version of trtflow"
        raise StepError(f"{path} is not an engine card that this version reads", cure, str(error)) from error


def check_card(card: EngineCard, engine: Path, here: Capabilities, *, other_version: bool = False) -> None:
    """Refuse an engine that was not made for this runtime and device, or whose file is not as long as its card says.

    `other_version`: the runtime itself says that this engine is one for its version, whichever made it.

    The size shows a truncated file for the price of a stat; that the bytes are the right ones is for the store, which
    compares their sha256 when it opens an artifact.
    """
    rebuild = "build the engine again where it will run"
    if card.runtime != here.runtime:
        raise StepError(f"{engine} was made by {card.runtime}, not by {here.runtime}", f"open it with {card.runtime}")
    if not here.available:
        raise StepError(f"{here.runtime} is not available here: {here.reason}", here.cure)
    if card.runtime_version != here.version and not other_version:
        made = f"{engine} was made by {card.runtime} {card.runtime_version}, and this is {here.version}"
        raise StepError(made, f"{rebuild}, or install {card.runtime} {card.runtime_version}")
    if card.device not in here.devices:
        found = ", ".join(here.devices)
        raise StepError(f"{engine} was made for device {card.device}; {card.runtime} finds here: {found}", rebuild)
    check_size(engine, card.engine_bytes)


def check_size(path: Path, expected: int) -> None:
    """Refuse a file of an engine that is missing or truncated."""
    found = path.stat().st_size if path.is_file() else None
    if found != expected:
        what = "is missing" if found is None else f"is {found} bytes long"
        raise StepError(f"{path} {what}, its card says {expected} bytes", "the file is damaged: build the engine again")


def input_specs(declared: tuple[TensorSpec, ...], signature: Signature) -> tuple[TensorSpec, ...]:
    """Join what a graph declares with the signature, whose names its dims get; refuse a graph that does not take it."""
    graph = {spec.name: spec for spec in declared}
    if graph.keys() != signature.inputs.keys():
        raise StepError(
            f"the graph takes {sorted(graph)}, the signature names {sorted(signature.inputs)}",
            "`inputs` must name every input of the exported model, and nothing else",
        )
    specs = tuple(TensorSpec(name=name, dtype=spec.dtype, shape=spec.shape) for name, spec in signature.inputs.items())
    for spec in specs:
        found = graph[spec.name]
        dims = zip(found.shape, spec.shape, strict=False)
        fits = len(found.shape) == len(spec.shape) and all(have == want or isinstance(have, str) for have, want in dims)
        if found.dtype != spec.dtype or not fits:
            raise StepError(
                f"the graph takes {_described(found)}, the signature says {_described(spec)}",
                "a dim that the signature names must be dynamic in the graph: look at the export",
            )
    return specs


def check_inputs(card: EngineCard, feeds: Tensors) -> None:
    """Refuse feeds that the engine does not take."""
    names = [spec.name for spec in card.inputs]
    if feeds.keys() != set(names):
        missing, unknown = sorted(set(names) - feeds.keys()), sorted(feeds.keys() - set(names))
        raise StepError(
            f"the feeds have the names {sorted(feeds)}, the engine takes {names}",
            f"missing: {missing or 'none'}, unknown: {unknown or 'none'}",
        )
    sizes: dict[str, int] = {}
    for spec in card.inputs:
        feed = feeds[spec.name]
        if str(feed.dtype) != spec.dtype:
            raise StepError(f"input '{spec.name}' has dtype {feed.dtype}, the engine takes {spec.dtype}")
        if not _fits(feed.shape, spec.shape, sizes):
            known = {dim: sizes[dim] for dim in spec.shape if isinstance(dim, str) and dim in sizes}
            takes = f"{list(spec.shape)}" + (f" with {known}" if known else "")
            raise StepError(f"input '{spec.name}' has shape {list(feed.shape)}, the engine takes {takes}")
    for name, size in sizes.items():
        dim = card.dims.get(name)
        if dim is not None and not dim.holds(size):
            raise StepError(f"the feeds have {name} = {size}, the engine takes {dim.described()}")


def sample(run: Callable[[], object], seconds: float) -> Samples:
    """Time `run` again and again for `seconds`, at least once, with Python's garbage collector out of the way."""
    nanoseconds: list[int] = []
    collects = gc.isenabled()
    gc.disable()
    try:
        stop = time.perf_counter_ns() + int(seconds * 1e9)
        while not nanoseconds or time.perf_counter_ns() < stop:
            begin = time.perf_counter_ns()
            run()
            nanoseconds.append(time.perf_counter_ns() - begin)
    finally:
        if collects:
            gc.enable()
    return Samples(nanoseconds=tuple(nanoseconds))


def load_model(model: Path, *, external_data: bool) -> "onnx.ModelProto":
    """Read an ONNX file, whatever its name ends in."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        loaded = onnx.load(model, format="protobuf", load_external_data=False)
    except DecodeError as error:
        raise StepError(f"{model} is not an ONNX model, or is truncated", "make it again", str(error)) from error
    if external_data:
        read_in(external_tensors(loaded), model.parent)
    return loaded


def external_files(model: Path) -> tuple[str, ...]:
    """Files beside an ONNX model that hold weights of it; refuse names that leave its folder."""
    names = external_names(load_model(model, external_data=False))
    for name in names:
        if Path(name).name != name:
            raise StepError(f"{model} keeps weights in '{name}'", "external weights must lie beside the model")
    return names


def link_unchanged(request: BuildRequest, unchanged: dict[str, str]) -> None:
    """Give files of the model that an engine uses as they are a name beside it, unless the caller does."""
    for name, source in unchanged.items() if not request.links else ():
        link_or_copy(request.model.with_name(source), request.folder / name)


def physical_cores() -> int:
    """Cores on which this process may run; two threads of one core count once."""
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text(encoding="ascii").strip() if siblings.exists() else str(cpu))
    return len(cores)


def resident_bytes() -> int:
    """Host memory that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def growth_since(resident: int) -> MemoryUse:
    """Host memory that this process took since it held `resident` bytes."""
    return MemoryUse(host_bytes=max(0, resident_bytes() - resident), device_bytes=0)


def _fits(shape: tuple[int, ...], expected: tuple[int | str, ...], sizes: dict[str, int]) -> bool:
    """Whether `shape` is the expected one; the sizes of named dims are noted in `sizes`, and hold for all inputs."""
    if len(shape) != len(expected):
        return False
    return all(
        size == (sizes.setdefault(dim, size) if isinstance(dim, str) else dim)
        for size, dim in zip(shape, expected, strict=True)
    )


def _described(spec: TensorSpec) -> str:
    return f"'{spec.name}' as {spec.dtype}{list(spec.shape)}"
