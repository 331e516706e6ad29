"""ONNX's own reference implementation in numpy: a second opinion on what a graph means, slow and never deployed."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from tasks.core.digests import sha256_file
from tasks.core.errors import StepError
from tasks.core.tensors import Tensors
from tasks.runtimes import base
from tasks.runtimes.base import BuildMetrics, BuildRequest, Capabilities, EngineCard, OpenOptions, TensorSpec

if TYPE_CHECKING:
    import onnx
    from onnx.reference import ReferenceEvaluator


# Options that every runtime is given.
_DEFAULTS = {"device": "cpu", "threads": None}


class ReferenceRuntime:
    """Its engine is the typed graph itself, so it cannot differ from it."""

    def probe(self) -> Capabilities:
        """Say which onnx this is."""
        try:
            import onnx
        except ImportError as error:
            reason, cure = f"onnx cannot be imported: {error}", "install it: pip install onnx"
            return Capabilities(runtime="reference", available=False, reason=reason, cure=cure)
        return Capabilities(
            runtime="reference",
            available=True,
            version=onnx.__version__,
            devices=("cpu",),
            precisions=("fp32", "fp16", "bf16", "int8", "fp8", "int4"),
        )

    def build(self, request: BuildRequest, folder: Path) -> BuildMetrics:
        """Give the typed graph, and the weights beside it, a second name in `folder`."""
        chosen = {name: value for name, value in request.options.items() if (name, value) not in _DEFAULTS.items()}
        if chosen:
            raise StepError(f"the reference runtime has nothing to choose, and is asked for {chosen}", "leave it out")
        graph = _evaluator(request.model).proto_.graph
        unchanged = {base.ENGINE: request.model.name, **{name: name for name in base.external_files(request.model)}}
        base.link_unchanged(request.model_copy(update={"folder": folder}), unchanged)
        card = EngineCard(
            runtime="reference",
            runtime_version=self.probe().version,
            precision=request.precision,
            device="cpu",
            host=request.host,
            inputs=base.input_specs(_declared(graph.input), request.signature),
            outputs=_declared(graph.output),
            dims=request.signature.dims,
            settings={},
            engine_bytes=request.model.stat().st_size,
            engine_sha256=sha256_file(request.model),
        )
        (folder / base.CARD).write_text(card.model_dump_json(indent=1), encoding="utf-8")
        size = sum(request.model.with_name(name).stat().st_size for name in unchanged.values())
        return BuildMetrics(
            size_bytes=size, optimization="none", rejected=(), agreement_rel_l2=0.0, unchanged=unchanged
        )

    def open(self, engine: Path, card: EngineCard, options: OpenOptions) -> "ReferenceSession":
        """Open an engine whose card fits; numpy has no threads to set."""
        base.check_card(card, engine, self.probe())
        if options.threads is not None:
            raise StepError("the reference runtime has no thread count", "leave `threads` out for it")
        return ReferenceSession(engine, card)


class ReferenceSession:
    """An open graph."""

    def __init__(self, engine: Path, card: EngineCard) -> None:
        self._card = card
        self._resident = base.resident_bytes()
        self._evaluator: ReferenceEvaluator | None = _evaluator(engine)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._evaluator = None

    def infer(self, feeds: Tensors) -> Tensors:
        """Run once."""
        evaluator = self._opened()
        base.check_inputs(self._card, feeds)
        with _plain_errors("running the graph"):
            outputs = evaluator.run(None, feeds)
        return dict(zip((output.name for output in self._card.outputs), outputs, strict=True))

    def time(self, feeds: Tensors, seconds: float) -> base.Samples:
        """Time inferences: to know how long a judgement takes, not to compare runtimes by."""
        evaluator = self._opened()
        base.check_inputs(self._card, feeds)
        with _plain_errors("running the graph"):
            return base.sample(lambda: evaluator.run(None, feeds), seconds)

    def memory(self) -> base.MemoryUse:
        """Host memory since the graph was opened."""
        return base.growth_since(self._resident)

    def layers(self) -> tuple[base.LayerTime, ...]:
        """Nothing: the reference implementation does not time its layers."""
        return ()

    def _opened(self) -> "ReferenceEvaluator":
        if self._evaluator is None:
            raise StepError("this reference session is closed", "use it inside its `with` block")
        return self._evaluator


@contextlib.contextmanager
def _plain_errors(doing: str) -> Iterator[None]:
    """Turn what the reference implementation raises into a StepError.

    It is written in numpy and has no exceptions of its own for a graph or feeds that it cannot take: these are numpy's.
    """
    try:
        yield
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, FileNotFoundError) as error:
        said = f"{doing} failed in onnx's reference implementation: {type(error).__name__}: {error}"
        raise StepError(said, "it may lack this operator in these types: other runtimes are not affected") from error


def _evaluator(model: Path) -> "ReferenceEvaluator":
    from onnx.reference import ReferenceEvaluator

    with _plain_errors(f"opening {model.name}"):
        return ReferenceEvaluator(base.load_model(model, external_data=True))


def _declared(values: "Sequence[onnx.ValueInfoProto]") -> tuple[TensorSpec, ...]:
    import onnx

    specs = []
    for value in values:
        if not value.type.HasField("tensor_type"):
            raise StepError(f"'{value.name}' is not a tensor", "export a model whose inputs and outputs are tensors")
        tensor = value.type.tensor_type
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim)
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        specs.append(TensorSpec(name=value.name, dtype=dtype, shape=shape))
    return tuple(specs)
