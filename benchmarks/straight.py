"""The same work as `trtflow run resnet18`, as one would write it by hand: one process, one call after the other.

    .venv/bin/python benchmarks/straight.py FOLDER

No store, no cache, no isolation, no gates: the libraries' own calls, and the same seconds of benchmark for each engine
and for the eager baseline. What trtflow takes more than this is what its orchestration costs. What another model needs
as well is used by straight_minilm.py.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import torch
from modelopt.onnx.autocast import convert_to_mixed_precision
from numpy.typing import NDArray
from safetensors.numpy import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
from models import resnet18

Arrays: TypeAlias = dict[str, NDArray[np.generic]]
Dynamic: TypeAlias = tuple[Mapping[int, object], ...]  # of each input: its axes that may vary
Metric: TypeAlias = Callable[[Arrays, Arrays, Arrays], float]  # of outputs, targets and the source's outputs
OPSET = 20
SECONDS = 2.0
WARM_UP = 0.15
ROUNDS = 20
RANGE_BATCHES = 8


def data(
    folder: Path, calibration_source: Iterable[Arrays], evaluation_source: Iterable[tuple[Arrays, Arrays]]
) -> tuple[list[Arrays], list[Arrays], list[Arrays]]:
    """Materialise calibration and evaluation data; two golden inputs are the first two evaluation batches."""
    calibration = list(calibration_source)
    evaluation = list(evaluation_source)
    feeds = [batch for batch, _ in evaluation]
    save_file(
        {f"{i}/{n}": a for i, b in enumerate(calibration) for n, a in b.items()}, folder / "calibration.safetensors"
    )
    save_file({f"{i}/{n}": a for i, b in enumerate(feeds) for n, a in b.items()}, folder / "evaluation.safetensors")
    return calibration, feeds, feeds[:2]


def tensors(feeds: Arrays) -> tuple[torch.Tensor, ...]:
    """Feeds as the module takes them, in their order."""
    return tuple(torch.from_numpy(array) for array in feeds.values())


def export(module: torch.nn.Module, example: Arrays, output: str, path: Path, dynamic: Dynamic | None = None) -> None:
    """Trace the module and write it as ONNX."""
    torch.onnx.export(
        module,
        tensors(example),
        str(path),
        input_names=list(example),
        output_names=[output],
        opset_version=OPSET,
        dynamo=True,
        dynamic_shapes=dynamic,
        external_data=False,
        verbose=False,
    )


def run_torch(module: torch.nn.Module, batches: Sequence[Arrays], output: str) -> list[Arrays]:
    """Outputs of the source framework."""
    with torch.inference_mode():
        return [{output: module(*tensors(batch)).numpy()} for batch in batches]


def fold(source: Path, target: Path) -> None:
    """Fold constants with graphsurgeon."""
    graph = gs.import_onnx(onnx.load(str(source)))
    graph.fold_constants(size_threshold=1 << 20).cleanup().toposort()
    onnx.save(gs.export_onnx(graph), str(target))


def cast(source: Path, target: Path, ranges: Sequence[Arrays]) -> None:
    """Cast to fp16 where real data stays in range."""
    folder = target.parent / "ranges"
    folder.mkdir()
    for index, batch in enumerate(ranges):
        np.savez(folder / f"{index:05d}.npz", **batch)  # type: ignore[arg-type]
    model = convert_to_mixed_precision(str(source), "fp16", keep_io_types=True, calibration_data=str(folder))
    del model.graph.value_info[:]
    onnx.save(model, str(target))


def session(path: Path, level: ort.GraphOptimizationLevel, saved: Path | None = None) -> ort.InferenceSession:
    """Open a graph at an optimisation level."""
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    if saved is not None:
        options.optimized_model_filepath = str(saved)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def outputs(opened: ort.InferenceSession, batches: Sequence[Arrays]) -> list[Arrays]:
    """Run each batch."""
    names = [output.name for output in opened.get_outputs()]
    return [dict(zip(names, opened.run(names, batch), strict=True)) for batch in batches]


def rel_l2(actual: Sequence[Arrays], expected: Sequence[Arrays]) -> float:
    """Relative L2 error over all batches of the one output."""
    left, right = (np.concatenate([a.ravel() for b in side for a in b.values()]) for side in (actual, expected))
    difference = left.astype(np.float64) - right.astype(np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(right.astype(np.float64)))


def score(metric: Metric, actual: Sequence[Arrays], expected: Sequence[Arrays]) -> float:
    """The metric of the pipeline, over all batches at once."""
    ours, theirs = ({name: np.concatenate([b[name] for b in side]) for name in side[0]} for side in (actual, expected))
    return metric(ours, {}, theirs)


def benchmark(candidates: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median milliseconds of each, in turns."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for call in candidates.values():
        _time(call, WARM_UP * SECONDS)
    while any(sum(taken) < SECONDS for taken in times.values()):
        for name, call in candidates.items():
            if sum(times[name]) < SECONDS:
                times[name] += _time(call, SECONDS / ROUNDS)
    return {name: 1000 * float(np.median(taken)) for name, taken in times.items()}


def _time(call: Callable[[], object], seconds: float) -> list[float]:
    taken: list[float] = []
    while not taken or sum(taken) < seconds:
        begin = time.perf_counter()
        call()
        taken.append(time.perf_counter() - begin)
    return taken


def main(folder: Path) -> None:
    """Do it all, and print what was found."""
    none, full = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    calibration, evaluation, golden = data(folder, resnet18.calibration(), resnet18.evaluation())
    module = resnet18.build().eval()
    paths = {name: folder / f"{name}.onnx" for name in ("export", "fp32", "fp16")}
    export(module, golden[0], "logits", paths["export"])
    source, source_evaluation = (run_torch(module, batches, "logits") for batches in (golden, evaluation))
    fold(paths["export"], paths["fp32"])
    cast(paths["fp32"], paths["fp16"], [*golden, *calibration[:RANGE_BATCHES]])
    judged = {name: outputs(session(path, none), golden) for name, path in paths.items()}
    found: dict[str, object] = {"export": rel_l2(judged["export"], source)}
    image = tensors(golden[0])
    candidates: dict[str, Callable[[], object]] = {}
    for name in ("fp32", "fp16"):
        engine = folder / f"{name}.engine.onnx"
        session(paths[name], full, engine)
        opened = session(engine, none)
        ours = outputs(opened, golden)
        found[name] = {
            "vs_source": rel_l2(ours, source),
            "precision_cost": rel_l2(judged[name], judged["fp32"]),
            "runtime_cost": rel_l2(ours, judged[name]),
            "metric": score(resnet18.agreement, outputs(opened, evaluation), source_evaluation),
        }
        candidates[name] = partial(opened.run, ["logits"], golden[0])
    with torch.inference_mode():
        candidates["torch eager"] = lambda: module(*image)
        found["p50_ms"] = benchmark(candidates)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
