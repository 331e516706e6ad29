"""What calibration found: the ranges that a quantised graph holds, against what its tensors take (in a worker).

ModelOpt does not part finding ranges from inserting Q/DQ pairs, so the ranges are read back from the graph.
"""

import hashlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.feeds import Axes, cut, samples_in
from tasks.core.frozen import Frozen
from tasks.core.tensors import Tensors, load_batches
from tasks.runtimes.inner import InnerGraph, in_slices
from tasks.sources.onnx_graph import load_graph, read_facts
from tasks.sources.onnx_qdq import bypass, quantized_nodes

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray

# Largest magnitude that is not clipped, in units of the scale.
_INT8, _FP8 = 127.0, 448.0
_PERCENTILE = 99.9
_STRIDE = 7  # of so many values one is enough for a percentile; the extremes are taken over all
# ModelOpt 0.47 gives fp8 scales with which the largest value lies at 36 of 448 (it multiplies an int8 scale by 448/127
# where 127/448 would bring it to 448). So fp8 never clips; MiniLM and a small CNN lose nothing measurable by it.
# One value decides a range that is so many times what all but a thousandth of the values need.
OUTLIER_RATIO = 4.0
# A range has settled when the half of the samples that saw less of it saw at least this share of it.
SETTLED_RATIO = 0.8


class RangesRequest(Frozen):
    """A quantised graph, the batches that it was calibrated with, and the evaluation data, which should hold others."""

    model: Path
    calibration: Path
    evaluation: Path | None
    folder: Path


class TensorRange(Frozen):
    """One quantised activation over the calibration data.

    `bound` is the largest magnitude that the scale can hold, `clipped_share` the share of values beyond it, `p999` the
    median over the batches of the 99.9th percentile of the magnitudes, `outlier_ratio` the largest magnitude by that,
    and `halves_ratio` the smaller by the larger of the largest magnitudes of either half of the samples.
    """

    name: str
    consumers: tuple[str, ...]
    minimum: float
    maximum: float
    bound: float
    clipped_share: float
    p999: float
    outlier_ratio: float
    halves_ratio: float


class Ranges(Frozen):
    """All quantised activations in the order of the graph: ranges.json."""

    tensors: tuple[TensorRange, ...]


class CalibrationMetrics(Frozen):
    """The report in short: which tensors deserve a look, by name."""

    samples_asked: int | None
    samples: int
    batches: int
    samples_also_in_evaluation: int
    tensors: int
    clipped_share: float
    outliers: tuple[str, ...]
    unsettled: tuple[str, ...]
    zeros: tuple[str, ...] = ()


def read_ranges(request: RangesRequest) -> CalibrationMetrics:
    """Write ranges.json."""
    batches = load_batches(request.calibration)
    model = load_graph(request.model)
    bounds = _bounds(model)
    ranges = Ranges(tensors=tuple(_measure(request.model, model, bounds, batches)))
    (request.folder / "ranges.json").write_text(ranges.model_dump_json(indent=1), encoding="utf-8")
    evaluation = load_batches(request.evaluation) if request.evaluation else []
    outliers = [found for found in ranges.tensors if found.outlier_ratio >= OUTLIER_RATIO]
    axes = read_facts(model).batch_axes or None
    samples = sum(samples_in(batch, axes) for batch in batches)
    known = set(_digests(evaluation, axes))
    return CalibrationMetrics(
        samples_asked=None,
        samples=samples,
        batches=len(batches),
        samples_also_in_evaluation=sum(digest in known for digest in _digests(batches, axes)),
        tensors=len(ranges.tensors),
        clipped_share=max((found.clipped_share for found in ranges.tensors), default=0.0),
        outliers=tuple(found.name for found in sorted(outliers, key=lambda found: -found.outlier_ratio)),
        unsettled=tuple(found.name for found in ranges.tensors if samples > 1 and found.halves_ratio < SETTLED_RATIO),
        zeros=tuple(found.name for found in ranges.tensors if found.minimum == found.maximum == 0),
    )


def _digests(batches: Sequence[Tensors], axes: Axes | None) -> list[str]:
    """One digest a sample, over its rows in all inputs."""
    found = []
    for batch in batches:
        for row in range(samples_in(batch, axes)):
            content = hashlib.sha256()
            for name, array in sorted(cut(batch, row, row + 1, axes).items()):
                content.update(name.encode() + array.tobytes())
            found.append(content.hexdigest())
    return found


@dataclass
class _Bound:
    """The range that the graph gives a tensor, and who reads it through it."""

    magnitude: float
    consumers: list[str] = field(default_factory=list)


def _bounds(model: "onnx.ModelProto") -> dict[str, _Bound]:
    """Activations by name; weights have scales of their own, found without data."""
    from onnx import TensorProto, numpy_helper

    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    found: dict[str, _Bound] = {}
    for node in quantized_nodes(model):
        for pair in node.inputs:
            if pair.source in constants or pair.scale not in constants:
                continue
            scale = float(abs(numpy_helper.to_array(constants[pair.scale])).max())
            low = constants.get(pair.zero_point or "")
            eight_bit_float = low is not None and low.data_type == TensorProto.FLOAT8E4M3FN
            bound = found.setdefault(pair.source, _Bound(scale * (_FP8 if eight_bit_float else _INT8)))
            bound.consumers.append(node.name)
    return found


def _measure(
    path: Path, model: "onnx.ModelProto", bounds: dict[str, _Bound], batches: Sequence[Tensors]
) -> Iterator[TensorRange]:
    """Run the graph with every pair passed by: what the tensors are where nothing is rounded."""
    sums = {name: _Sum(bound.magnitude) for name, bound in bounds.items()}
    bypass(model, {node.name for node in quantized_nodes(model)})
    scratch = Path(tempfile.mkdtemp())
    plain = scratch / "float.onnx"
    plain.write_bytes(model.SerializeToString())
    graph = InnerGraph(plain, scratch / "inner", weights=path.parent)
    made = {name for node in model.graph.node for name in node.output}

    def run(names: Sequence[str]) -> int:
        for index, values in enumerate(graph.run(names, batches)):
            for name in names:
                sums[name].add(values[name], index, len(batches))
        return max(sums[name].largest_bytes for name in names)

    in_slices([name for name in sums if name in made], run)
    for name in sums.keys() - made:
        for index, batch in enumerate(batches):
            sums[name].add(batch[name], index, len(batches))
    for name, found in sums.items():
        yield found.told(name, tuple(bounds[name].consumers))


@dataclass
class _Sum:
    """What is kept of a tensor while its batches go by."""

    bound: float
    minimum: float = math.inf
    maximum: float = -math.inf
    clipped: int = 0
    count: int = 0
    largest_bytes: int = 1
    percentiles: list[float] = field(default_factory=list)
    halves: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def add(self, values: "NDArray[np.generic]", index: int, batches: int) -> None:
        import numpy as np

        magnitudes = np.abs(values.astype(np.float32, copy=False))
        parts = np.array_split(magnitudes, 2) if batches == 1 else [magnitudes]
        for offset, part in enumerate(parts):
            half = offset if batches == 1 else int(index >= batches / 2)
            self.halves[half] = max(self.halves[half], float(part.max(initial=0.0)))
        self.minimum = min(self.minimum, float(values.min(initial=math.inf)))
        self.maximum = max(self.maximum, float(values.max(initial=-math.inf)))
        # The edge itself rounds to the last step: half a step beyond it is where clipping begins.
        self.clipped += int(np.count_nonzero(magnitudes > self.bound * (1 + 0.5 / _INT8)))
        self.count += values.size
        self.largest_bytes = max(self.largest_bytes, values.nbytes)
        self.percentiles.append(float(np.percentile(magnitudes.ravel()[::_STRIDE], _PERCENTILE)))

    def told(self, name: str, consumers: tuple[str, ...]) -> TensorRange:
        import numpy as np

        usual, largest = float(np.median(self.percentiles)), max(self.halves)
        return TensorRange(
            name=name,
            consumers=consumers,
            minimum=self.minimum,
            maximum=self.maximum,
            bound=self.bound,
            clipped_share=self.clipped / max(1, self.count),
            p999=usual,
            outlier_ratio=largest / usual if usual else 1.0,
            halves_ratio=min(self.halves) / largest if largest else 1.0,
        )
