"""What a graph computes on its way to its outputs: its inner tensors on ONNX Runtime, unoptimised, in bounded memory.

A tensor is read by making it an output of the graph. All of them at once would hold every activation of the model, so
they are read in slices: each opens the graph again, with the outputs of that slice and no others.

Where the CPU lacks an operator's fp16 kernel, onnxruntime computes it in fp32 and leaves out roundings between such
nodes, even unoptimised. A tensor that is read is rounded: in fp16, what follows may differ in the last bits.
"""

import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tasks.core.tensors import Tensors
from tasks.runtimes import base
from tasks.runtimes.external_data import external_names
from tasks.runtimes.onnxruntime_errors import plain_errors
from tasks.runtimes.onnxruntime_session import open_unoptimised

SLICE_BYTES = 256 << 20
# How large a tensor is, only running the graph tells: begin with few, and never take so many more that what follows
# could be far beyond the bound.
_FIRST, _GROWTH, _MOST = 4, 4, 64
_LARGE_BYTES = 1 << 20
_FLOATS = frozenset({"tensor(float)", "tensor(float16)", "tensor(double)"})


class InnerGraph:
    """A graph whose inner tensors can be read; `scratch` is a folder of its own, for the graphs with other outputs.

    `weights` is the folder of its external data, by default its own. Large weights of a graph that keeps none in other
    files move into one in `scratch`; of one that does, those left inside are few.
    """

    def __init__(self, model: Path, scratch: Path, weights: Path | None = None) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        self._model = base.load_model(model, external_data=False)
        self._path = scratch / "inner.onnx"
        self._weights = weights or model.parent
        if not external_names(self._model):
            self._weights = scratch
            self._move_weights(scratch)

    def names(self) -> list[str]:
        """Tensors of floating point that nodes make, in the order in which they are made."""
        made = dict.fromkeys(name for node in self._model.graph.node for name in node.output if name)
        self._write(list(made))
        # Only onnxruntime knows the types behind every operator that it can run.
        opened = open_unoptimised(self._path, weights=self._weights)
        types = {output.name: output.type for output in opened.get_outputs()}
        return [name for name in made if types[name] in _FLOATS]

    def run(self, names: Sequence[str], batches: Sequence[Tensors]) -> Iterator[Tensors]:
        """Compute only these tensors, one dict for each batch."""
        import onnxruntime

        self._write(names)
        session, options = open_unoptimised(self._path, weights=self._weights), onnxruntime.RunOptions()
        # Else nodes run that no tensor of the slice needs.
        options.only_execute_path_to_fetches = True
        for feeds in batches:
            with plain_errors("running the graph"):
                values = session.run(list(names), feeds, options)
            yield dict(zip(names, values, strict=True))

    def _move_weights(self, scratch: Path) -> None:
        """Write large weights to a file beside the graphs once, not into every one of them."""
        from onnx.external_data_helper import convert_model_to_external_data, write_external_data_tensors

        convert_model_to_external_data(self._model, location=f"{uuid.uuid4().hex}.data", size_threshold=_LARGE_BYTES)
        write_external_data_tensors(self._model, str(scratch))

    def _write(self, outputs: Sequence[str]) -> None:
        import onnx

        # onnxruntime infers the type of an output that has none.
        del self._model.graph.output[:]
        self._model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        self._path.write_bytes(self._model.SerializeToString())


def in_slices(names: Sequence[str], run: Callable[[Sequence[str]], int]) -> None:
    """Call `run` on one slice after the other; it returns the bytes of the largest tensor that it met.

    A slice has as many tensors as SLICE_BYTES hold, at least one.
    """
    begin, length, largest = 0, _FIRST, 1
    while begin < len(names):
        largest = max(largest, run(names[begin : begin + length]))
        begin += length
        length = max(1, min(length * _GROWTH, SLICE_BYTES // largest, _MOST))
