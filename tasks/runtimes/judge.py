"""Run a graph without optimisation, and compare what the hops of a conversion computed (in a worker)."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tasks.core.errors import CannotRun, StepError
from tasks.core.frozen import Frozen
from tasks.core.metrics import OutputError, compare, worst
from tasks.core.tensors import Tensors, load_batches, save_batches


class JudgeRequest(Frozen):
    """A graph and the batches to run it on."""

    model: Path
    feeds: Path
    folder: Path


class JudgeMetrics(Frozen):
    """What was run; `not_run` is why nothing was: ONNX Runtime lacks a kernel."""

    batches: int
    outputs: tuple[str, ...]
    not_run: str = ""


class Hop(Frozen):
    """Two files of outputs: `actual` is judged by `expected`."""

    actual: Path
    expected: Path


class HopsRequest(Frozen):
    """Named hops to compare, and the files that are also kept in Polygraphy's format."""

    hops: dict[str, Hop]
    feeds: Path
    outputs: Path
    runner: str
    folder: Path


class HopError(Frozen):
    """The error of one hop: by output over all batches, and the worst of them; `empty` outputs hold no element."""

    worst: OutputError
    outputs: dict[str, OutputError]
    empty: tuple[str, ...] = ()


class HopsReply(Frozen):
    """The errors by hop."""

    hops: dict[str, HopError]


def judge_graph(request: JudgeRequest) -> JudgeMetrics:
    """Write outputs.safetensors."""
    from tasks.runtimes.onnxruntime_session import run_unoptimised

    try:
        outputs = run_unoptimised(request.model, load_batches(request.feeds))
    except CannotRun as error:
        return JudgeMetrics(batches=0, outputs=(), not_run=error.message)
    save_batches(request.folder / "outputs.safetensors", outputs)
    return JudgeMetrics(batches=len(outputs), outputs=tuple(outputs[0]) if outputs else ())


def compare_hops(request: HopsRequest) -> HopsReply:
    """Compare each hop, and keep feeds and outputs as Polygraphy reads them."""
    _write_polygraphy(request)
    return HopsReply(hops={name: _compare(name, hop) for name, hop in request.hops.items()})


def _compare(name: str, hop: Hop) -> HopError:
    sides = load_batches(hop.actual), load_batches(hop.expected)
    axes = joining_axes([batch for side in sides for batch in side])
    actual, expected = (joined(side, axes) for side in sides)
    if actual.keys() != expected.keys():
        raise StepError(f"{name}: outputs {sorted(actual)} instead of {sorted(expected)}", "name the outputs alike")
    errors = compare(actual, expected)
    empty = tuple(name for name, tensor in expected.items() if tensor.size == 0 and actual[name].size == 0)
    return HopError(worst=worst(errors.values()), outputs=errors, empty=empty)


def joining_axes(batches: Sequence[Mapping[str, object]]) -> dict[str, int]:
    """The axis along which all batches of an output lie side by side; none where they differ in several."""
    import numpy as np

    found: dict[str, int] = {}
    for name in batches[0]:
        shapes = {np.shape(batch[name]) for batch in batches if name in batch}  # type: ignore[call-overload]
        if len({len(shape) for shape in shapes}) > 1 or not min(shapes):
            continue
        varying = [axis for axis, sizes in enumerate(zip(*shapes, strict=True)) if len(set(sizes)) > 1]
        if len(varying) <= 1:
            found[name] = varying[0] if varying else 0
    return found


def joined(batches: Sequence[Mapping[str, object]], axes: Mapping[str, int] | None = None) -> Tensors:
    """All batches of an output as one array; batches that fit along no axis are laid end to end, flattened."""
    import numpy as np

    axes = joining_axes(batches) if axes is None else axes
    joined: Tensors = {}
    for name in batches[0]:
        arrays = [np.asarray(batch[name]) for batch in batches]
        flat = [array.ravel() for array in arrays]
        joined[name] = np.concatenate(arrays, axes[name]) if name in axes else np.concatenate(flat)
    return joined


def _write_polygraphy(request: HopsRequest) -> None:
    """Files that `polygraphy run --load-inputs ... --load-outputs ...` reads."""
    # Polygraphy imports torch if it can, to register it with its JSON encoder: seconds, and nothing here is torch's.
    sys.modules.setdefault("torch", None)  # type: ignore[arg-type]
    from polygraphy.comparator import IterationResult, RunResults
    from polygraphy.json import save_json

    save_json(load_batches(request.feeds), str(request.folder / "inputs.json"))
    results = RunResults()
    batches = load_batches(request.outputs)
    results.append((request.runner, [IterationResult(outputs=b, runner_name=request.runner) for b in batches]))
    results.save(str(request.folder / "outputs.json"))
