"""Whether a rewritten graph is still the graph that it was made from: valid, and computing the same (in a worker)."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.errors import CannotRun, StepError
from tasks.core.tensors import Tensors, load_batches
from tasks.runtimes.external_data import external_names
from tasks.runtimes.onnxruntime_session import open_unoptimised, run_batches
from tasks.sources.external_files import placeholders
from tasks.sources.onnx_graph import checkable, read_facts

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

# What computing constants beforehand may change of a result, by itemsize: they round in another order.
_ROUNDING = {2: 1e-2, 4: 1e-4, 8: 1e-9}
# How much a graph may grow: constants that folding makes stand beside those that it makes them of.
_GROWTH_BYTES, _GROWTH_SHARE = 1 << 20, 0.1
_MESSAGE_LENGTH = 200


class Exported:
    """An exported graph, and what it computes on golden inputs; it is run only where something has changed."""

    def __init__(self, path: Path, prepared: "onnx.ModelProto", golden: Path) -> None:
        self.path = path
        self.prepared = prepared
        self._golden = golden

    def refusal(self, made: "onnx.ModelProto") -> str:
        """Why a rewritten graph cannot take the exported one's place; empty where it can."""
        return self.unfit(made) or ("" if same_nodes(made, self.prepared) else self.difference(made))

    def unfit(self, made: "onnx.ModelProto") -> str:
        """What of a rewritten graph is wrong without running it."""
        before, after = read_facts(self.prepared), read_facts(made)
        if (before.inputs, before.outputs) != (after.inputs, after.outputs):
            return "its inputs or outputs are no longer those of the exported graph"
        limit = before.initializer_bytes * (1 + _GROWTH_SHARE) + _GROWTH_BYTES
        if after.initializer_bytes > limit:
            return f"its constants grow from {before.initializer_bytes:,} to {after.initializer_bytes:,} bytes"
        return invalid(made)

    def difference(self, made: "onnx.ModelProto") -> str:
        """How the outputs of a rewritten graph differ from those of the exported one; empty where they agree."""
        expected = self._outputs
        if expected is None:
            return ""  # the step that judges the exported graph tells why it does not run
        path = Path(tempfile.mkdtemp()) / "made.onnx"
        path.write_bytes(made.SerializeToString())
        try:
            actual = run_batches(open_unoptimised(path, weights=self.path.parent), self._batches)
        except StepError as error:
            return f"it does not run: {' '.join(error.message.split())[:_MESSAGE_LENGTH]}"
        finally:
            path.unlink()
            path.parent.rmdir()
        found = first_difference(actual, expected)
        if found and first_difference(self._run_exported(), expected):
            return (
                "the exported graph itself gives other outputs each time that it runs, so that nothing can be compared"
            )
        return found

    @cached_property
    def _batches(self) -> list[Tensors]:
        return load_batches(self._golden)

    @cached_property
    def _outputs(self) -> list[Tensors] | None:
        try:
            return self._run_exported()
        except (CannotRun, StepError):
            return None

    def _run_exported(self) -> list[Tensors]:
        return run_batches(open_unoptimised(self.path), self._batches)


def invalid(model: "onnx.ModelProto") -> str:
    """Why onnx's checker refuses a graph; empty where it does not."""
    import onnx

    fit = checkable(model)
    checked: onnx.ModelProto | str = str(placeholders(fit)) if external_names(fit) else fit
    try:
        onnx.checker.check_model(checked)
    except onnx.checker.ValidationError as error:
        return f"it is not valid ONNX: {' '.join(str(error).split())[:_MESSAGE_LENGTH]}"
    return ""


def same_nodes(one: "onnx.ModelProto", other: "onnx.ModelProto") -> bool:
    """Whether two graphs hold the same nodes and constants, whatever their order and the names of the nodes."""
    if _counted(one) != _counted(other):
        return False
    mine, theirs = ({tensor.name: tensor for tensor in model.graph.initializer} for model in (one, other))
    read = {name for node in one.graph.node for name in node.input}
    return all(name in mine and _same_tensor(mine[name], theirs[name]) for name in theirs.keys() & read)


def _counted(model: "onnx.ModelProto") -> Counter[tuple[object, ...]]:
    return Counter(
        (
            node.op_type,
            node.domain,
            tuple(node.input),
            tuple(node.output),
            tuple(sorted(attribute.SerializeToString(deterministic=True) for attribute in node.attribute)),
        )
        for node in model.graph.node
    )


def _same_tensor(one: "onnx.TensorProto", other: "onnx.TensorProto") -> bool:
    from onnx import TensorProto, numpy_helper

    if (one.data_type, list(one.dims), one.data_location) != (other.data_type, list(other.dims), other.data_location):
        return False
    if one.data_location == TensorProto.EXTERNAL:
        return list(one.external_data) == list(other.external_data)
    if one.HasField("raw_data") and other.HasField("raw_data"):
        return one.raw_data == other.raw_data
    return numpy_helper.to_array(one).tobytes() == numpy_helper.to_array(other).tobytes()


def first_difference(actual: Sequence[Tensors], expected: Sequence[Tensors]) -> str:
    """The first output that is not what it should be, with the figures; empty where all are."""
    for have, want in zip(actual, expected, strict=True):
        for name in want:
            found = _difference(have[name], want[name])
            if found:
                return f"output {name!r} {found}"
    return ""


def _difference(actual: "NDArray[np.generic]", expected: "NDArray[np.generic]") -> str:
    import numpy as np

    if (actual.shape, actual.dtype) != (expected.shape, expected.dtype):
        return f"is {actual.dtype}{list(actual.shape)} instead of {expected.dtype}{list(expected.shape)}"
    if not np.issubdtype(expected.dtype, np.floating) and expected.dtype.kind != "V":
        wrong = int((actual != expected).sum())
        return f"differs in {wrong} of {expected.size} values" if wrong else ""
    left, right = actual.astype(np.float64), expected.astype(np.float64)
    finite = np.isfinite(right)
    scale = float(np.abs(right[finite]).mean()) if finite.any() else 0.0
    bound = _ROUNDING.get(expected.dtype.itemsize, _ROUNDING[2])
    wrong = int((~np.isclose(left, right, rtol=bound, atol=bound * scale, equal_nan=True)).sum())
    return f"differs in {wrong} of {expected.size} values" if wrong else ""
