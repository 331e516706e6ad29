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
    """The error of one hop: by output over all batches, and the worst of them."""

    worst: OutputError
    outputs: dict[str, OutputError]


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
    actual, expected = joined(load_batches(hop.actual)), joined(load_batches(hop.expected))
    if actual.keys() != expected.keys():
        raise StepError(f"{name}: outputs {sorted(actual)} instead of {sorted(expected)}", "name the outputs alike")
    errors = compare(actual, expected)
    return HopError(worst=worst(errors.values()), outputs=errors)


def joined(batches: Sequence[Mapping[str, object]]) -> Tensors:
    """All batches of an output as one array; batches of different shapes are laid end to end, flattened."""
    import numpy as np

    joined: Tensors = {}
    for name in batches[0]:
        arrays = [np.asarray(batch[name]) for batch in batches]
        alike = len({array.shape[1:] for array in arrays}) == 1 and arrays[0].ndim > 0
        joined[name] = np.concatenate(arrays if alike else [array.ravel() for array in arrays])
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
