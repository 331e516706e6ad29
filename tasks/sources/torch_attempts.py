"""Export by one exporter after the other, and take the first graph that computes what the module does (in a worker)."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from tasks.core.errors import StepError, UserCodeError
from tasks.core.feeds import resize
from tasks.core.metrics import compare, worst
from tasks.core.signature import DimRange, Signature
from tasks.core.tensors import Tensors
from tasks.core.tolerances import PARITY, excess
from tasks.core.user_code import call_user
from tasks.runtimes.onnxruntime_session import open_unoptimised, run_batches, run_unoptimised
from tasks.sources.graph_range import described, deviations
from tasks.sources.onnx_graph import GraphFacts, read_facts
from tasks.sources.onnx_outputs import name_outputs
from tasks.sources.other_values import other_values
from tasks.sources.source_range import RangeRun
from tasks.sources.torch_assumptions import check_assumptions
from tasks.sources.torch_branches import asks_values
from tasks.sources.torch_exporters import NO_OPERATOR, ExportAsked, Exporter, ExportFailedError, run_exporter
from tasks.sources.torch_module import TorchSource, takes_names

if TYPE_CHECKING:
    import onnx
    import onnxruntime
    import torch
    from torch.export import ExportedProgram

Infer: TypeAlias = Callable[[Tensors], Tensors]
_TRACE = "pkg.torch.onnx.stack_trace"  # names folders of this machine: the same model would differ from host to host
_MEND = "mend the module, or narrow `dims` to sizes that are right"
_NEAR = 4


@dataclass(frozen=True)
class Reference:
    """What the module is, computed: the names of its outputs, its outputs on golden inputs, and over the range."""

    outputs: tuple[str, ...]
    golden: list[Tensors]
    golden_outputs: list[Tensors]
    over_range: RangeRun
    infer: Infer


@dataclass(frozen=True)
class Exported:
    """A graph that is right: which exporter made it, and why another did not."""

    facts: GraphFacts
    exporter: Exporter
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Attempts:
    """What every exporter is asked for, and what its graph is held against."""

    source: TorchSource
    signature: Signature
    opset: int
    path: Path
    reference: Reference

    def first_right(
        self,
        module: "torch.nn.Module",
        example: "dict[str, torch.Tensor]",
        asked: Literal["auto", "dynamo", "torchscript"],
    ) -> Exported:
        """Try the exporters in turn; raise what the first said, and the second if it said something else."""
        exporters: tuple[Exporter, ...] = ("dynamo", "torchscript") if asked == "auto" else (asked,)
        failures: list[StepError] = []
        programs: list[ExportedProgram] = []
        for exporter in exporters:
            for stale in self.path.parent.glob(f"{self.path.name}*"):
                stale.unlink()
            try:
                facts = self._attempt(module, example, exporter, programs)
            except ExportFailedError as error:
                if error.on_values and (line := self._asks_values(module, example)):
                    raise _branches(self.source.factory, line, error) from error
                failures.append(error)
            except StepError as error:
                failures.append(error)
            else:
                return Exported(facts, exporter, tuple(_taken(exporter, failures)))
        raise _joined(failures)

    def _attempt(
        self,
        module: "torch.nn.Module",
        example: "dict[str, torch.Tensor]",
        exporter: Exporter,
        programs: "list[ExportedProgram]",
    ) -> GraphFacts:
        """Export and check; `programs` keeps what dynamo noted of the module's code, for the graph of a trace too."""
        asked = ExportAsked(self.source, self.signature, self.opset, self.path, self.reference.outputs)
        program = run_exporter(exporter, module, example, asked)
        if program is not None and program.exported_program is not None:
            programs.append(program.exported_program)
        facts = self._finished()
        self._check_facts(facts)
        self._check_golden()
        if exporter == "torchscript":
            self._check_trace(noted=bool(programs))
        self._check_range()
        for noted in programs:
            check_assumptions(noted, self.source.inputs, self.signature, self._agrees)
        return facts

    def _asks_values(self, module: "torch.nn.Module", example: "dict[str, torch.Tensor]") -> str | None:
        import torch

        by_name = takes_names(module, self.source.inputs)
        positional = () if by_name else tuple(example.values())
        run = partial(module, *positional, **(example if by_name else {}))
        with torch.inference_mode():
            return asks_values(partial(call_user, self.source.factory, run), example, self.source.project)

    def _check_trace(self, *, noted: bool) -> None:
        """Hold a trace, which says nothing of the ways that it did not follow, against other values and sizes."""
        self._check_other_values()
        for name, dim in self.signature.dims.items() if not noted else ():
            for size in _spread(dim):
                if not self._agrees({name: size}):
                    raise UserCodeError(f"the exported graph computes something else where {name} = {size}", _MEND)

    def _finished(self) -> GraphFacts:
        """Name dims and outputs, and drop stack traces, so that a model gives the same bytes from any folder."""
        import onnx

        model = onnx.load(str(self.path), load_external_data=False)
        for node in model.graph.node:
            kept = [prop for prop in node.metadata_props if prop.key != _TRACE]
            del node.metadata_props[:]
            node.metadata_props.extend(kept)
        _order_inputs(model, self.source.inputs)
        name_outputs(model, self.reference.outputs)
        _name_dims(model, self.signature)
        self.path.write_bytes(model.SerializeToString(deterministic=True))
        return read_facts(model)

    def _check_facts(self, facts: GraphFacts) -> None:
        """Raise StepError when the exporter gave another opset, other names or lost a dynamic dim without a word."""
        if facts.opset != self.opset:
            raise StepError(
                f"opset {self.opset} was asked for and the exporter gave {facts.opset}",
                "set `export.opset` to one it can give (18 to 23), or `export.exporter: torchscript`",
            )
        if tuple(facts.inputs) != self.source.inputs:
            raise StepError(
                f"the exported graph has the inputs {list(facts.inputs)}, expected {list(self.source.inputs)}",
                "an input that the module does not use is dropped: take it out of `inputs`",
            )
        for name, spec in self.signature.inputs.items():
            expected = [_expected(dim, self.signature) for dim in spec.shape]
            if list(facts.inputs[name].shape) != expected or facts.inputs[name].dtype != spec.dtype:
                raise StepError(
                    f"input {name!r} was exported with shape {list(facts.inputs[name].shape)}, expected {expected}",
                    "the module's code fixes that dim (a Python `if` or int() on a shape does): mend it, "
                    "or write the number into `inputs` if one size is enough",
                )

    def _check_golden(self) -> None:
        outputs = run_unoptimised(self.path, self.reference.golden)
        for actual, expected in zip(outputs, self.reference.golden_outputs, strict=True):
            wrong = excess(worst(compare(actual, expected).values()), PARITY["fp32"])
            if wrong:
                told = f"the exported graph computes something else than the module: {'; '.join(wrong)}"
                raise UserCodeError(told, "mend the module, or look at the operators that it is made of")

    def _check_other_values(self) -> None:
        """Run graph and module on other values of the same sizes: what depends on values shows there."""
        session = open_unoptimised(self.path)
        for feeds in other_values(self.reference.golden[0], self.signature):
            try:
                expected = self.reference.infer(feeds)
            except StepError:  # such values are none that the module takes
                continue
            if wrong := _differs(session, feeds, expected):
                told = f"the exported graph computes something else than the module on other values: {wrong}"
                raise UserCodeError(told, "the module's code asks for values (a Python `if` on a tensor does): mend it")

    def _check_range(self) -> None:
        wrong = deviations(self.path, self.reference.over_range, self.reference.golden[0], self.signature)
        if wrong:
            raise UserCodeError(described(wrong, self.reference.over_range), _MEND)

    def _agrees(self, sizes: dict[str, int]) -> bool:
        """Whether module and graph compute the same at these sizes; the other dims are at their opt."""
        feeds = resize(self.reference.golden[0], self.signature, {**self.signature.sizes("opt"), **sizes})
        expected = self.reference.infer(feeds)
        try:
            (actual,) = run_unoptimised(self.path, [feeds])
            error = worst(compare(actual, expected).values())
        except StepError:  # it does not even run there, or gives other shapes
            return False
        return excess(error, PARITY["fp32"]) == []


def _spread(dim: DimRange) -> list[int]:
    """Sizes of a range: the smallest, those around opt, and some between."""
    sizes = range(dim.min, dim.max + 1, dim.step)
    near = {dim.opt + step * dim.step for step in range(-_NEAR, _NEAR + 1)}
    return sorted({*sizes[:_NEAR], *sizes[:: -(-len(sizes) // _NEAR)], *(size for size in near if size in sizes)})


def _differs(session: "onnxruntime.InferenceSession", feeds: Tensors, expected: Tensors) -> str:
    """How a graph differs from what is expected; nothing where it does not, or where NaN allows no comparison."""
    error = worst(compare(run_batches(session, [feeds])[0], expected).values())
    return "; ".join(excess(error, PARITY["fp32"])) if error.finite else ""


def _branches(factory: str, line: str, error: ExportFailedError) -> UserCodeError:
    return UserCodeError(
        f"{factory}: the way through the module's code depends on values of its inputs (at {line}): "
        "no ONNX graph of one way is right for all",
        "replace the Python `if`, `bool()` or `.item()` there: by torch.where, or by torch.cond",
        error.detail,
    )


def _taken(exporter: Exporter, failures: Sequence[StepError]) -> Iterator[str]:
    """Why it is not the first exporter's graph that was taken."""
    for failure in failures:
        yield f"exported by {exporter}, since the dynamo exporter gave no right graph: {failure.message}"


def _joined(failures: Sequence[StepError]) -> StepError:
    first, *others = failures
    more = [_said(other) for other in others if _kind(other) != _kind(first)]
    told = f"{first.message}; the TorchScript exporter: {more[0]}" if more else first.message
    return UserCodeError(told, first.cure, "\n".join(failure.detail for failure in failures))


def _said(failure: StepError) -> str:
    return failure.cause if isinstance(failure, ExportFailedError) else failure.message


def _kind(failure: StepError) -> str:
    """What went wrong, without what differs by exporter: the line, or the inner name of an operator."""
    said = _said(failure).partition(" (at ")[0]
    return NO_OPERATOR if said.startswith(NO_OPERATOR) else said


def _order_inputs(model: "onnx.ModelProto", names: Sequence[str]) -> None:
    """Put the inputs into the order of the YAML, if they are those."""
    found = {value.name: value for value in model.graph.input}
    if found.keys() == set(names):
        ordered = [copy.deepcopy(found[name]) for name in names]
        del model.graph.input[:]
        model.graph.input.extend(ordered)


def _name_dims(model: "onnx.ModelProto", signature: Signature) -> None:
    """Call the axes as the YAML does: of multiples, the exporter writes expressions."""
    written: dict[str, str] = {}
    for value in model.graph.input:
        spec = signature.inputs.get(value.name)
        dims = value.type.tensor_type.shape.dim
        for dim, name in zip(dims, spec.shape if spec else (), strict=False):
            if isinstance(name, str) and dim.dim_param:
                written[dim.dim_param] = name
                dim.dim_param = name
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in written:
                dim.dim_param = written[dim.dim_param]


def _expected(dim: int | str, signature: Signature) -> int | str:
    if isinstance(dim, str) and signature.dims[dim].min == signature.dims[dim].max:
        return signature.dims[dim].min
    return dim
