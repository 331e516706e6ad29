"""The shorter of two ways to an engine: new weights into the one that there is, or a build (in a worker)."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tasks.core.digests import sha256_file
from tasks.core.errors import StepError
from tasks.runtimes import base
from tasks.runtimes.base import EarlierBuild
from tasks.runtimes.onnx_structure import structure_of, weight_names
from tasks.runtimes.tensorrt_dialects import dialect_of
from tasks.runtimes.tensorrt_network import (
    BuildSettings,
    Messages,
    build_plan,
    check_settings,
    load_plugins,
    logger_of,
    parse,
    readable,
)
from tasks.runtimes.tensorrt_refit import NotRefitted, named_weights, refit_by_layer, refit_by_name, refit_by_parser
from tasks.runtimes.tensorrt_tensors import EngineTensor, of_engine
from tasks.runtimes.timing_cache import TimingCacheUse

if TYPE_CHECKING:
    from types import ModuleType


@dataclass(frozen=True)
class Plan:
    """A serialised engine, and how it came to be: see BuildMetrics."""

    data: bytes
    tensors: dict[str, EngineTensor]
    structure: str
    way: Literal["built", "refitted"]
    reason: str
    seconds: float
    earlier: EarlierBuild | None
    timing_cache: TimingCacheUse | None


def make_plan(
    trt: "ModuleType", settings: BuildSettings, earlier: tuple[EarlierBuild, ...], messages: Messages
) -> Plan:
    """Refit the engine of an equal graph where that can be, else build."""
    check_settings(dialect_of(trt), settings)
    structure = structure_of(base.load_model(settings.model, external_data=False), settings.model.parent)
    known = next((build for build in earlier if build.structure == structure), None)
    begin, reason = time.perf_counter(), ""
    if settings.options.refittable:
        try:
            data, tensors = _refitted(trt, settings, known)
        except NotRefitted as error:
            reason = error.message
        else:
            assert known is not None  # noqa: S101 - without it there is nothing to refit
            seconds = time.perf_counter() - begin
            return Plan(data, tensors, structure, "refitted", known.artifact, seconds, known, None)
        begin = time.perf_counter()
    built = build_plan(trt, settings, messages)
    seconds = time.perf_counter() - begin
    return Plan(built.data, built.tensors, structure, "built", reason, seconds, known, built.timing_cache)


def _refitted(
    trt: "ModuleType", settings: BuildSettings, known: EarlierBuild | None
) -> tuple[bytes, dict[str, EngineTensor]]:
    why_not = _why_not(settings, known)
    if why_not or known is None:
        raise NotRefitted(why_not)
    messages = Messages()
    logger = logger_of(trt, messages)
    load_plugins(settings.options.plugins)
    trt.init_libnvinfer_plugins(logger, "")
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(_verified(known))
    if engine is None:
        raise NotRefitted(f"{known.artifact} does not open: {messages.said}")
    dialect = dialect_of(trt)
    if dialect.parser_refit:
        model = readable(settings.model, dialect).SerializeToString(deterministic=True)
        refit_by_parser(trt, engine, logger, model, settings.model)
    else:
        _refit_without_parser(trt, engine, logger, settings)
    plan = engine.serialize()
    if plan is None:
        raise NotRefitted(f"the refitted engine cannot be written: {messages.said}")
    return bytes(plan), of_engine(engine)


def _refit_without_parser(trt: "ModuleType", engine: Any, logger: Any, settings: BuildSettings) -> None:  # noqa: ANN401
    """By the names of initializers; where the parser has made weights of its own, by what it makes of the new graph."""
    model = readable(settings.model, dialect_of(trt))
    try:
        refit_by_name(trt, engine, logger, named_weights(settings.model), weight_names(model))
    except NotRefitted as error:
        try:
            refit_by_layer(trt, engine, logger, parse(trt, logger, settings).network)
        except NotRefitted as by_layer:
            raise NotRefitted(f"{error.message}; by layer: {by_layer.message}") from by_layer


def _why_not(settings: BuildSettings, known: EarlierBuild | None) -> str:
    """Why no refit is tried, empty where one is."""
    if settings.calibration:
        return "new weights have new ranges, which TensorRT's calibrator finds as it builds"
    if settings.options.sparsity:
        return "kernels for sparse weights were chosen for the zeros of the old ones"
    if settings.options.strip_plan:
        return "a plan without weights is built anew"
    if known is None or known.folder is None:
        return "there is no earlier engine of a graph with this structure"
    return ""


def _verified(known: EarlierBuild) -> bytes:
    """The engine's bytes, if they are what its card says."""
    assert known.folder is not None  # noqa: S101 - asked before
    path = known.folder / base.ENGINE
    try:
        card = base.read_card(known.folder / base.CARD)
        same, content = sha256_file(path) == card.engine_sha256, path.read_bytes()
    except (StepError, OSError) as error:
        raise NotRefitted(f"{known.artifact} cannot be read: {error}") from error
    if not same:
        raise NotRefitted(f"{known.artifact} is not what its card says")
    return content
