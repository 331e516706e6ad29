"""TensorRT, every generation, and TensorRT-RTX: one runtime over the module that serves it."""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from pydantic import ValidationError

from tasks.core.config_interpreters import Module
from tasks.core.digests import sha256_file
from tasks.core.environment import gpu_host
from tasks.core.errors import CannotRun, StepError
from tasks.core.feeds import resize
from tasks.core.files import link_or_copy
from tasks.core.signature import Signature
from tasks.core.tensors import Tensors, load_batches
from tasks.runtimes import base
from tasks.runtimes.base import BuildMetrics, BuildRequest, Capabilities, EngineCard, OpenOptions, TensorSpec
from tasks.runtimes.install import install_line
from tasks.runtimes.onnx_bounds import bounded
from tasks.runtimes.tensorrt_dialects import builds, dialect_of, opens
from tasks.runtimes.tensorrt_network import BuildSettings, Messages, TensorRtOptions
from tasks.runtimes.tensorrt_session import TensorRtSession
from tasks.runtimes.tensorrt_tensors import as_taken
from tasks.runtimes.tensorrt_way import make_plan

if TYPE_CHECKING:
    from types import ModuleType

Name = Literal["tensorrt", "tensorrt-rtx"]
Specs: TypeAlias = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


def tensorrt_module(name: str) -> Module:
    """Narrow the name of a module, read from a request, to one that a TensorRT has."""
    known: tuple[Module, ...] = get_args(Module)
    for candidate in known:
        if name == candidate:
            return candidate
    raise StepError(f"there is no TensorRT that is imported as '{name}'", f"it is one of {', '.join(known)}")


class TensorRt:
    """Builds plans from typed graphs and runs them; `module` is what is imported for it."""

    def __init__(self, name: Name, module: Module) -> None:
        self._name = name
        self._module = module

    def probe(self) -> Capabilities:
        """Say which version this is, and whether a GPU is here."""
        if importlib.util.find_spec(self._module) is None:
            reason = f"{self._module} is not installed"
            return Capabilities(runtime=self._name, available=False, reason=reason, cure=self._cure())
        try:
            trt = self._imported()
            dialect = dialect_of(trt)
        except StepError as error:
            return Capabilities(runtime=self._name, available=False, reason=error.message, cure=error.cure)
        here = gpu_host()
        if not here and not dialect.offline:
            reason = f"{self._module} {trt.__version__} is installed, and there is no NVIDIA GPU here"
            return Capabilities(runtime=self._name, available=False, reason=reason, cure="run it where the GPU is")
        if here and importlib.util.find_spec("pycuda") is None:
            reason = f"{self._module} {trt.__version__} is installed, and pycuda, by which it runs, is not"
            return Capabilities(runtime=self._name, available=False, reason=reason, cure=self._cure())
        return Capabilities(
            runtime=self._name,
            available=True,
            version=trt.__version__,
            devices=("cuda:0",) if here else (),
            precisions=dialect.precisions if builds(trt) else (),
            profiles=True,
            streams=True,
            layers=True,
            refit=bool(here),
            not_run="" if here else "there is no NVIDIA GPU here",
        )

    def build(self, request: BuildRequest, folder: Path) -> BuildMetrics:
        """Compile the graph, then run it at the smallest, the usual and the largest sizes."""
        trt, messages = self._imported(), Messages()
        if not builds(trt):
            raise StepError(f"{self._module} builds no engines", "name an interpreter that holds the whole of TensorRT")
        options, (inputs, outputs) = _options(request), _specs(request)
        try:
            with bounded(request.model, options.upper_bounds) as model:
                told = _shared(request) | {"model": model}
                settings = BuildSettings(options=options, kind=request.precision, **told)
                plan = make_plan(trt, settings, request.earlier, messages)
        except CannotRun as error:
            return BuildMetrics(
                size_bytes=0, optimization="none", rejected=(), agreement_rel_l2=None, not_run=error.message
            )
        engine = folder / base.ENGINE
        engine.write_bytes(plan.data)
        specs = (as_taken(inputs, plan.tensors), as_taken(outputs, plan.tensors))
        card = self._card(request, engine, options, specs)
        if options.strip_plan:
            _keep_weights(request.model, folder)
        (folder / base.CARD).write_text(card.model_dump_json(indent=1), encoding="utf-8")
        not_run = self.probe().not_run
        if not not_run:
            self._try_ends(engine, card, request)
        return BuildMetrics(
            size_bytes=len(plan.data),
            optimization=f"level {options.optimization_level}" if options.optimization_level else "default",
            rejected=tuple(messages.warnings),
            agreement_rel_l2=None,
            not_run=f"{not_run}: built by {self._module} {trt.__version__} for {_target(options)}" if not_run else "",
            structure=plan.structure,
            way=plan.way,
            way_reason=plan.reason,
            seconds=round(plan.seconds, 3),
            earlier=plan.earlier and plan.earlier.model_copy(update={"folder": None}),  # a place of this host alone
            timing_cache=plan.timing_cache,
        )

    def open(self, engine: Path, card: EngineCard, options: OpenOptions) -> TensorRtSession:
        """Open an engine whose card fits this host."""
        if options.threads is not None:
            raise StepError("TensorRT has no thread count", "leave `threads` out for it")
        here = self.probe()
        if here.not_run:
            raise CannotRun(f"{engine} does not run here: {here.not_run}", "run it where the GPU is")
        compatible = bool(card.settings.get("version_compatible"))
        fits = opens(self._imported(), card.runtime_version, version_compatible=compatible)
        base.check_card(card, engine, here, other_version=fits)
        bound = {name: value for name, value in card.host.items() if name in gpu_host()}
        if bound != gpu_host():
            raise StepError(
                f"{engine} was built on {bound}, and this host has {gpu_host()}", "build the engine again where it runs"
            )
        return TensorRtSession(self._imported(), engine, card, _parsed(card.settings))

    def _imported(self) -> "ModuleType":
        try:
            return importlib.import_module(self._module)
        except (ImportError, OSError, RuntimeError) as error:
            raise StepError(f"{self._module} cannot be imported: {error}", self._cure()) from error

    def _cure(self) -> str:
        return install_line(self._module, sys.executable)

    def _card(self, request: BuildRequest, engine: Path, options: TensorRtOptions, specs: Specs) -> EngineCard:
        inputs, outputs = specs
        return EngineCard(
            runtime=self._name,
            runtime_version=self._imported().__version__,
            precision=request.precision,
            device="cuda:0",
            host=request.host | gpu_host(),
            inputs=inputs,
            outputs=outputs,
            dims=request.signature.dims,
            settings=options.model_dump(mode="json"),
            engine_bytes=engine.stat().st_size,
            engine_sha256=sha256_file(engine),
        )

    def _try_ends(self, engine: Path, card: EngineCard, request: BuildRequest) -> None:
        """Run at both ends and the middle of the profile: an engine that only runs at its opt is no engine."""
        with self.open(engine, card, OpenOptions(timed=False)) as session:
            for feeds in _ends(request.signature, load_batches(request.golden)[0]):
                session.infer(feeds)


def _shared(request: BuildRequest) -> dict[str, Any]:
    """What a build is told as it was asked."""
    names = ("model", "signature", "folder", "exported", "timing_caches", "calibration")
    return {name: getattr(request, name) for name in names}


def _keep_weights(model: Path, folder: Path) -> None:
    """Keep the graph beside a plan without weights: it gets them from there when it is opened."""
    for name in (model.name, *base.external_files(model)):
        link_or_copy(model.parent / name, folder / name)


def _ends(signature: Signature, golden: Tensors) -> list[Tensors]:
    sizes = [signature.sizes(which) for which in ("min", "opt", "max")]
    return [resize(golden, signature, size) for size in sizes] if signature.dims else [golden]


def _specs(request: BuildRequest) -> Specs:
    """What the graph takes and gives; looked at first: a builder has no plain word for a graph that does not fit."""
    graph = base.load_model(request.model, external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = _declared([value for value in graph.input if value.name not in weights])
    return base.input_specs(inputs, request.signature), _declared(list(graph.output))


def _options(request: BuildRequest) -> TensorRtOptions:
    return _parsed(request.options)


def _parsed(values: object) -> TensorRtOptions:
    try:
        return TensorRtOptions.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        known = ", ".join(TensorRtOptions.model_fields)
        raise StepError(f"wrong engine options: {problems}", f"TensorRT knows {known}") from error


def _target(options: TensorRtOptions) -> str:
    return f"compute capability {options.compute_capability}"


def _declared(values: object) -> tuple[TensorSpec, ...]:
    from onnx.helper import tensor_dtype_to_np_dtype

    specs = []
    for value in values:  # type: ignore[attr-defined]
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim)
        specs.append(TensorSpec(name=value.name, dtype=str(tensor_dtype_to_np_dtype(tensor.elem_type)), shape=shape))
    return tuple(specs)
