"""The two exporters of torch: what each is asked for, and what it says when it fails (in a worker)."""

import contextlib
import inspect
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from tasks.core.errors import UserCodeError
from tasks.core.signature import DimRange, Signature
from tasks.sources.onnx_outputs import placeholders
from tasks.sources.torch_module import TorchSource, takes_names

if TYPE_CHECKING:
    import torch

Exporter: TypeAlias = Literal["dynamo", "torchscript"]
_PROTOBUF_BYTES = 1_800_000_000
_CAUSE_LENGTH = 300
# What dynamo says where the way through the code depends on values: a trace would follow one of the ways in silence.
NO_OPERATOR = "ONNX has no operator for torch's"
# What the exporters say of the commonest causes, and what that means.
_WORDED = (
    (
        r"No ONNX function found for <OpOverload\(op='\w+\._*(\w+)|Exporting the operator '\w+::_*(\w+)' to ONNX",
        f"{NO_OPERATOR} {{}}",
    ),
    (r"(\w+) as dynamic but your code specialized it to be a constant", "the module's code fixes {}"),
    (r"\.(numpy)\(\) is not supported for tensor subclasses", "what is computed by {} no graph holds"),
    (
        r"only integers, slices|type must be tuple of ints,? ?but got FakeTensor",
        "a size follows from values of an input",
    ),
    (r"Dynamic shape axis should be no more than the shape dimension", "an input has lost a dim on the way"),
)
_CLASS = re.compile(r"\b(?:[\w.]*\.)?\w+(?:Error|Exception)\b(?:\(|: )")
_ON_VALUES = re.compile(r"data-dependent|GuardOnDataDependent|torch\._check|dynamic control flow", re.IGNORECASE)


class ExportFailedError(UserCodeError):
    """An exporter gave no graph, for `cause`; `on_values`: the way through the module's code depends on values."""

    def __init__(self, subject: str, cause: str, detail: str, *, on_values: bool) -> None:
        super().__init__(f"{subject}: {cause}", "see the exporter's guide to what a module may do", detail)
        self.cause = cause
        self.on_values = on_values


@dataclass(frozen=True)
class ExportAsked:
    """What both exporters are asked for: `path` is where the graph goes, `outputs` are the names that it will have."""

    source: TorchSource
    signature: Signature
    opset: int
    path: Path
    outputs: tuple[str, ...]


def run_exporter(
    exporter: Exporter,
    module: "torch.nn.Module",
    example: "dict[str, torch.Tensor]",
    asked: ExportAsked,
) -> "torch.onnx.ONNXProgram | None":
    """Write the graph; raise ExportFailedError with the cause in a line, and with all that was printed as detail."""
    printed = io.StringIO()  # a failing export prints hundreds of lines
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _ask_no_masks()
            return _export(exporter, module, example, asked)
    except Exception as error:
        said = f"{error}\n{printed.getvalue()}"
        where = _users_line(said, asked.source.project)
        raise ExportFailedError(
            f"{asked.source.factory} cannot be exported to ONNX by {exporter}",
            f"{_root_cause(error)}{where}",
            printed.getvalue(),
            on_values=bool(_ON_VALUES.search(said)),
        ) from error


def _export(
    exporter: Exporter, module: "torch.nn.Module", example: "dict[str, torch.Tensor]", asked: ExportAsked
) -> "torch.onnx.ONNXProgram | None":
    import torch

    by_name = takes_names(module, asked.source.inputs)
    dynamo = exporter == "dynamo"
    names = asked.source.inputs if dynamo or not by_name else _in_order(module, asked.source.inputs)
    example = {name: example[name] for name in names}
    dynamic = _dynamic_shapes(asked.signature)
    return torch.onnx.export(
        module,
        () if by_name else tuple(example.values()),
        str(asked.path),
        kwargs=example if by_name else None,
        input_names=list(names),
        output_names=placeholders(asked.outputs),
        opset_version=asked.opset,
        dynamo=dynamo,
        dynamic_shapes=(dynamic if by_name else tuple(dynamic.values())) if dynamo else None,
        dynamic_axes=None if dynamo else _dynamic_axes(asked.signature),
        external_data=_needs_external_data(module),
        verbose=False,
    )


def _ask_no_masks() -> None:
    """Let nn.Transformer take a mask as it is (in this process, which is the export's own).

    It compares each mask with a causal one, to pick a faster kernel: a branch on values, at which dynamo ends.
    """
    from torch.nn.modules import transformer

    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: is_causal is True  # noqa: ARG005


def _in_order(module: "torch.nn.Module", inputs: Sequence[str]) -> tuple[str, ...]:
    """The inputs as `forward` has them: a trace gives its names in that order, however they are passed."""
    return tuple(name for name in inspect.signature(module.forward).parameters if name in inputs)


def _dynamic_shapes(signature: Signature) -> dict[str, dict[int, object]]:
    from torch.export import Dim

    def declared(name: str, dim: DimRange) -> object:
        if dim.step == 1:
            return Dim(name, min=dim.min, max=dim.max)
        return dim.step * Dim(f"_{name}", min=dim.min // dim.step, max=dim.max // dim.step)

    # A range of one size is a constant to the exporter.
    dims = {name: declared(name, dim) for name, dim in signature.dims.items() if dim.min < dim.max}
    return {
        name: {axis: dims[dim] for axis, dim in enumerate(spec.shape) if isinstance(dim, str) and dim in dims}
        for name, spec in signature.inputs.items()
    }


def _dynamic_axes(signature: Signature) -> dict[str, dict[int, str]]:
    return {
        name: {axis: dim for axis, dim in enumerate(spec.shape) if isinstance(dim, str)}
        for name, spec in signature.inputs.items()
    }


def _needs_external_data(module: "torch.nn.Module") -> bool:
    """A protobuf message ends at 2 GiB; leave room for the graph itself."""
    size = sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))
    return size > _PROTOBUF_BYTES


def _root_cause(error: BaseException) -> str:
    """First line of the first exception of a chain: what the exporter wraps around it fills pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")
    for pattern, words in _WORDED:
        if found := re.search(pattern, first):
            return words.format(*filter(None, found.groups()))
    return _CLASS.sub("", first)[:_CAUSE_LENGTH]


def _users_line(said: str, project: Path) -> str:
    """The innermost line of the user's own code in what an exporter printed, as the end of a sentence."""
    found = list(_lines_of(said, project))
    return f" (at {found[-1]})" if found else ""


def _lines_of(said: str, project: Path) -> Iterator[str]:
    for file, line in re.findall(r'File "([^"]+)", line (\d+)', said):
        if Path(file).is_relative_to(project) and "site-packages" not in file:
            yield f"{Path(file).relative_to(project)}:{line}"
