"""What to make of an error of TensorRT or of the GPU: the place in the source, the memory there is, what to try."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.errors import StepError
from tasks.runtimes.onnx_origin import lines_of, modules_of

if TYPE_CHECKING:
    import onnx

# TensorRT says this of a layer for which no kernel fits, most often into the memory that it was given.
_NO_KERNEL = re.compile("could not find any implementation", re.IGNORECASE)
_NO_MEMORY = re.compile(
    r"out ?of ?memory|insufficient memory|could not be allocated|memory allocation|cuda failure: 2\b", re.IGNORECASE
)
_NO_PLUGIN = re.compile("plugin not found|no importer registered|plugincreator", re.IGNORECASE)
_MANY = 5
_GIB = 2**30


@dataclass(frozen=True)
class Origins:
    """Where the nodes of a graph come from: file and line, module, by the tensors that they make."""

    lines: dict[str, str] = field(default_factory=dict)
    modules: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, exported: Path | None) -> "Origins":
        """Read what the exporter noted; it only tells, so that a graph that is gone tells nothing."""
        import onnx

        if exported is None or not exported.is_file():
            return cls()
        model = onnx.load(exported, load_external_data=False)
        return cls(lines_of(model), modules_of(model))

    def of(self, node: "onnx.NodeProto") -> str:
        """Say where a node comes from; empty where nothing is known."""
        line = next((self.lines[name] for name in node.output if self.lines.get(name)), "")
        module = next((self.modules[name] for name in node.output if self.modules.get(name)), "")
        parts = [*([f"module {module}"] if module else []), *([line] if line else [])]
        return f"made by {', '.join(parts)}" if parts else ""


def cure_for(said: str, cure: str, limits: str = "") -> str:
    """Find what to do about a message of the library; `cure` where it says nothing that is known."""
    figures = "; ".join(filter(None, (gpu_memory(), limits)))
    if _NO_KERNEL.search(said):
        tries = "raise workspace_bytes, make dims.max smaller, or leave the node in another precision by `exclude`"
        return f"it is most often short of memory ({figures}): {tries}"
    if _NO_MEMORY.search(said):
        return f"the GPU has too little free memory ({figures}): end what else uses it, or make dims.max smaller"
    if _NO_PLUGIN.search(said):
        return "an operator that is not TensorRT's own comes from a plugin: name its library in options.plugins"
    return cure


def gpu_memory() -> str:
    """How much memory of the GPU is free now; says so where that cannot be known."""
    try:
        import pycuda.driver as cuda
    except ImportError:
        return "no figures without pycuda"
    try:
        cuda.init()
        context = cuda.Device(0).retain_primary_context()
        context.push()
        try:
            return memory_figures(*cuda.mem_get_info())
        finally:
            context.pop()
            context.detach()
    except cuda.Error as error:
        return f"no figures of the GPU's memory: {error}"


def memory_figures(free: int, total: int) -> str:
    """Write what is free of a GPU's memory."""
    return f"{free / _GIB:.2f} GiB of the GPU's {total / _GIB:.2f} GiB are free"


@contextlib.contextmanager
def cuda_errors(what: str) -> Iterator[None]:
    """Turn an error of CUDA in the block into one that says what was done, with the memory that there is."""
    import pycuda.driver as cuda

    try:
        yield
    except cuda.MemoryError as error:
        cure = "end what else uses the GPU, make dims.max smaller, or measure fewer sizes at once"
        raise StepError(f"the GPU ran out of memory while {what}: {gpu_memory()}", cure, str(error)) from error
    except cuda.Error as error:
        raise StepError(f"CUDA failed while {what}: {error}", "see what it says; run again on a healthy GPU") from error


def parse_failure(name: str, parser: Any, model: "onnx.ModelProto", origins: Origins) -> StepError:  # noqa: ANN401
    """An error with the nodes that the parser could not take, and where they come from. `name`: whose parser."""
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    said = "; ".join(_described(error, model, origins) for error in errors[:_MANY]) or "it gave no reason"
    return StepError(f"{name}: {said}", cure_for(said, "export those operators otherwise, or use a plugin"))


def places(said: str, model: "onnx.ModelProto", origins: Origins) -> str:
    """Where the nodes that a message names come from."""
    named = [node for node in model.graph.node if node.name and _names(said, node.name)]
    known = [f"{node.name} is {node.op_type}" + _aside(origins.of(node)) for node in named[:_MANY]]
    return f" ({'; '.join(known)})" if known else ""


def _described(error: Any, model: "onnx.ModelProto", origins: Origins) -> str:  # noqa: ANN401 - of a module value
    """Say which node it is; 8.6 tells its number alone."""
    nodes, index = model.graph.node, error.node()
    if not 0 <= index < len(nodes):
        return f"{error.desc()}"
    node = nodes[index]
    called = repr(node.name or node.output[0])
    domain = f" of domain {node.domain}" if node.domain else ""
    return f"node {called}, operator {node.op_type}{domain}{_aside(origins.of(node))}: {error.desc()}"


def _aside(text: str) -> str:
    return f", {text}" if text else ""


def _names(said: str, name: str) -> bool:
    return re.search(rf"(?<![\w./]){re.escape(name)}(?!\w|[./]\w)", said) is not None
