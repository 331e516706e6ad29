"""Upper bounds for sizes that only running tells, by Polygraphy: a builder that has to reserve memory needs them."""

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.config_fields import nearest
from tasks.core.errors import StepError
from tasks.core.files import link_or_copy
from tasks.runtimes.base import external_files, load_model

if TYPE_CHECKING:
    import onnx


@contextlib.contextmanager
def bounded(model: Path, bounds: Mapping[str, int]) -> Iterator[Path]:
    """A copy of the graph in which no value of the named tensors is above its bound, as long as the context is open.

    External weights are linked, not copied.
    """
    if not bounds:
        yield model
        return
    import onnx

    with tempfile.TemporaryDirectory(prefix="bounded-") as folder:
        made = Path(folder) / model.name
        for name in external_files(model):
            link_or_copy(model.parent / name, made.parent / name)  # a symbolic link is refused by onnx
        onnx.save(with_bounds(load_model(model, external_data=False), bounds), made)
        yield made


def with_bounds(model: "onnx.ModelProto", bounds: Mapping[str, int]) -> "onnx.ModelProto":
    """Put a Min behind each named tensor."""
    from onnxruntime.quantization.onnx_model import ONNXModel
    from polygraphy.backend.onnx import SetUpperBound

    made = [name for node in model.graph.node for name in node.output]
    for name in bounds:
        if name not in made:
            cure = f"{nearest(name, made)}name the output of a node that holds a size"
            raise StepError(f"upper_bounds names {name!r}, which no node of the graph makes", cure)
    result: onnx.ModelProto = SetUpperBound(model, dict(bounds), copy=True)()
    result.ir_version = model.ir_version
    ONNXModel(result).topological_sort()  # Polygraphy leaves what it adds at the end
    return result
