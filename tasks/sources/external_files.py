"""What an ONNX source keeps in files beside it: checked before anything reads it, and brought home under flat names."""

import itertools
import tempfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from tasks.core.errors import UserCodeError
from tasks.runtimes.external_data import (
    Extent,
    byte_length,
    extent_of,
    external_names,
    external_tensors,
    in_bodies,
    move,
    read_in,
)

if TYPE_CHECKING:
    import onnx

MODEL = "model.onnx"
_MOST_INSIDE = 1 << 30  # a file of protocol buffers ends at 2 GiB, and folding can enlarge a graph
_AGAIN = "export the model again, or copy the whole of it"


def flat_names(names: Iterable[str]) -> dict[str, str]:
    """Where files beside a source go in an artifact, which is one flat folder: its own files end in none of these."""
    homes: dict[str, str] = {}
    for name in names:
        flat = name if _is_free(name) else f"weights.{PurePosixPath(name).name}"
        numbered = (f"{flat}.{number}" for number in itertools.count(1))
        homes[name] = next(each for each in itertools.chain((flat,), numbered) if each not in homes.values())
    return homes


def _is_free(name: str) -> bool:
    """Whether a file may keep its name: it is a plain one, and none that an artifact or its making has."""
    taken = name.startswith(".") or name in (MODEL, "scratch") or name.endswith((".json", ".safetensors"))
    return "/" not in name and not taken


def bring_home(model: "onnx.ModelProto", homes: dict[str, str]) -> bool:
    """Have every external tensor name its file's new place; returns whether one moved."""
    moved = False
    for tensor in external_tensors(model):
        location = extent_of(tensor).location
        if location not in homes:
            raise UserCodeError(f"the model changed while it was read: it now names {location!r}", "run again")
        if any(entry.key == "location" and entry.value != homes[location] for entry in tensor.external_data):
            move(tensor, homes[location])
            moved = True
    return moved


def take_in_bodies(model: "onnx.ModelProto", folder: Path) -> bool:
    """Bring what the bodies of If, Loop and Scan keep in other files into the model; returns whether there was some.

    onnxruntime infers their types by onnx's own code, which refuses files with several hard links.
    """
    found = in_bodies(model)
    size = sum(map(byte_length, found))
    if size > _MOST_INSIDE:
        raise UserCodeError(
            f"the bodies of If, Loop or Scan nodes keep {size / 1e9:.1f} GB of weights in other files, and at most "
            f"{_MOST_INSIDE / 1e9:.1f} GB of such fit into the model",
            "make them initializers of the main graph: bodies can read those",
        )
    return bool(read_in(found, folder))


def placeholders(model: "onnx.ModelProto") -> Path:
    """Lay empty files where external data would be, and the model beside them; returns its path.

    onnx's checker looks for the files, not into them, and refuses links of any kind.
    """
    folder = Path(tempfile.mkdtemp())
    for name in external_names(model):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    path = folder / ("model.onnx" if "model.onnx" not in external_names(model) else "graph.onnx")
    path.write_bytes(model.SerializeToString())
    return path


def check_external(model: "onnx.ModelProto", path: Path) -> None:
    """Raise UserCodeError for external data that is not there, lies elsewhere, or is not what the tensors need."""
    taken: dict[str, dict[tuple[int, int], str]] = {}
    for tensor in external_tensors(model):
        try:
            extent = extent_of(tensor)
        except ValueError as error:
            raise UserCodeError(f"{path.name}: the external data of {tensor.name!r}: {error}", _AGAIN) from error
        check_inside(extent.location, path)
        begin, end = _range(tensor, extent, (path.parent / extent.location).stat().st_size)
        if end > begin:
            taken.setdefault(extent.location, {})[begin, end] = tensor.name
    for location, ranges in taken.items():
        _check_apart(location, ranges)


def check_inside(location: str, path: Path) -> None:
    """Raise UserCodeError unless `location` names a plain file in the folder of the model at `path`."""
    parts = PurePosixPath(location).parts
    if not parts or location == "." or PurePosixPath(location).is_absolute() or ".." in parts:
        raise UserCodeError(
            f"external data at {location!r} lies outside the model's folder", "keep it beside the model"
        )
    file, folder = path.parent / location, path.parent.resolve()
    if not file.exists():
        raise UserCodeError(
            f"{path.name} keeps weights in {location!r}, which is not beside it", "copy that file too, or export again"
        )
    if not file.resolve().is_relative_to(folder):
        raise UserCodeError(
            f"external data at {location!r} is a link to {file.resolve()}, outside the model's folder",
            "copy the files themselves beside the model (cp -L)",
        )
    if not file.is_file():
        kind = "a folder" if file.is_dir() else "a device, pipe or socket"
        raise UserCodeError(f"{path.name} keeps weights in {location!r}, which is {kind}", "put the file there")


def _range(tensor: "onnx.TensorProto", extent: Extent, size: int) -> tuple[int, int]:
    """First byte, and the one behind the last, of a tensor in its file of `size` bytes."""
    from onnx import TensorProto

    if tensor.data_type == TensorProto.STRING:
        raise UserCodeError(f"tensor {tensor.name!r} holds text in {extent.location!r}", "keep it inside the model")
    needed = byte_length(tensor)
    begin, end = extent.offset, extent.offset + needed
    if extent.length not in (None, needed):
        dims = list(tensor.dims)
        raise UserCodeError(
            f"tensor {tensor.name!r} of shape {dims} needs {needed} bytes and has {extent.length} in "
            f"{extent.location!r}",
            _AGAIN,
        )
    if begin < 0 or end > size:
        raise UserCodeError(
            f"tensor {tensor.name!r} lies at bytes {begin} to {end} of {extent.location!r}, which has {size}",
            f"that file is truncated, or of another model: {_AGAIN}",
        )
    return begin, end


def _check_apart(location: str, ranges: dict[tuple[int, int], str]) -> None:
    """Two tensors may share their bytes, as tied weights do, but not some of them."""
    for (_, end), (begin, _), (one, other) in (
        (left, right, (ranges[left], ranges[right])) for left, right in itertools.pairwise(sorted(ranges))
    ):
        if begin < end:
            raise UserCodeError(f"tensors {one!r} and {other!r} overlap in {location!r}", _AGAIN)
