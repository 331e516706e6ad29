"""The same work as `trtflow run` of minilm in four precisions, as one would write it by hand, like straight.py.

    .venv/bin/python benchmarks/straight_minilm.py FOLDER

fp32, fp16 by AutoCast, int8 and fp8 by ModelOpt, each as an engine at the highest level of ONNX Runtime's optimiser
that agrees with its graph unoptimised. trtflow also reads back what calibration found, which is left out here.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime as ort
import torch
from modelopt.onnx.quantization import quantize
from onnxruntime.capi import onnxruntime_pybind11_state as state
from torch.export import Dim

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.straight import (
    RANGE_BATCHES,
    Arrays,
    benchmark,
    cast,
    data,
    export,
    fold,
    outputs,
    rel_l2,
    run_torch,
    score,
    session,
    tensors,
)
from models import minilm
from tasks.core.tolerances import AGREEMENT

KINDS = ("fp32", "fp16", "int8", "fp8")
OUTPUT = "sentence"  # not "embedding": a value inside BERT has that name, and the exporter would define it twice
BATCH, SEQUENCE = 8, 32
NONE = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "disabled": NONE,
}


class Reader:
    """Calibration batches as ModelOpt reads them."""

    def __init__(self, batches: Sequence[Arrays]) -> None:
        self._batches = batches
        self._next: Iterator[Arrays] = iter(batches)

    def get_first(self) -> Arrays:
        """Give a batch to look at."""
        return self._batches[0]

    def get_next(self) -> Arrays | None:
        """Give the next batch, None after the last."""
        return next(self._next, None)

    def rewind(self) -> None:
        """Begin again."""
        self._next = iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def point(feeds: Arrays) -> Arrays:
    """Feeds at the size that is traced and timed."""
    rows, tokens = next(iter(feeds.values())).shape
    repeats = (-(-BATCH // rows), -(-SEQUENCE // tokens))
    return {name: np.ascontiguousarray(np.tile(a, repeats)[:BATCH, :SEQUENCE]) for name, a in feeds.items()}


def quantised(source: Path, target: Path, kind: Literal["int8", "fp8"], calibration: Sequence[Arrays]) -> None:
    """Quantise a private copy: ModelOpt rewrites its input."""
    folder = target.with_suffix("")
    folder.mkdir()
    private = shutil.copyfile(source, folder / "source.onnx")
    quantize(
        str(private),
        quantize_mode=kind,
        calibration_method="max",
        calibration_data_reader=Reader(calibration),
        calibration_eps=["cpu"],
        output_path=str(folder / "model.onnx"),
        high_precision_dtype="fp32",
        log_level="ERROR",
    )
    model = onnx.load(str(folder / "model.onnx"))
    del model.graph.value_info[:]
    onnx.save(model, str(target))


def engine(path: Path, golden: list[Arrays], judged: list[Arrays]) -> tuple[str, ort.InferenceSession]:
    """Save the graph at the highest level at which it, optimised and saved, agrees with what was judged."""
    saved = path.with_suffix(".engine.onnx")
    for name, level in LEVELS.items():
        try:
            optimised = outputs(session(path, level, saved), golden)
            opened = session(saved, NONE)
            found = [*optimised, *outputs(opened, golden)]
        except (state.Fail, state.InvalidGraph, state.NotImplemented, state.RuntimeException):
            continue
        errors = [rel_l2([ours], [theirs]) for ours, theirs in zip(found, [*judged, *judged], strict=True)]
        if all(error <= AGREEMENT[path.stem] for error in errors):  # NaN is no agreement
            return name, opened
    raise SystemExit(f"{path.name}: no optimisation level agrees with the unoptimised graph")


def spearman(ours: Arrays, targets: Arrays, theirs: Arrays) -> float:
    """The metric of the pipeline, under the name that the output has here."""
    return minilm.spearman({"embedding": ours[OUTPUT]}, targets, {"embedding": theirs[OUTPUT]})


def graphs(folder: Path, module: torch.nn.Module, sets: tuple[list[Arrays], list[Arrays]]) -> dict[str, Path]:
    """Export, fold and type, with calibration and golden batches."""
    calibration, golden = sets
    paths = {name: folder / f"{name}.onnx" for name in ("export", *KINDS)}
    axes = {0: Dim("batch", min=1, max=64), 1: Dim("sequence", min=4, max=128)}
    export(module, point(golden[0]), OUTPUT, paths["export"], (axes, axes))
    fold(paths["export"], paths["fp32"])
    cast(paths["fp32"], paths["fp16"], [*golden, *calibration[:RANGE_BATCHES]])
    quantised(paths["fp32"], paths["int8"], "int8", calibration)
    quantised(paths["fp32"], paths["fp8"], "fp8", calibration)
    return paths


def main(folder: Path) -> None:
    """Do it all, and print what was found."""
    calibration, evaluation, golden = data(folder, minilm.calibration(), minilm.evaluation())
    module = minilm.build().eval()
    source, source_evaluation = (run_torch(module, batches, OUTPUT) for batches in (golden, evaluation))
    paths = graphs(folder, module, (calibration, golden))
    judged = {name: outputs(session(path, NONE), golden) for name, path in paths.items()}
    found: dict[str, object] = {
        "export": rel_l2(judged["export"], source),
        "fold": rel_l2(judged["fp32"], judged["export"]),
    }
    feeds = point(golden[0])
    candidates: dict[str, Callable[[], object]] = {}
    for kind in KINDS:
        level, opened = engine(paths[kind], golden, judged[kind])
        ours = outputs(opened, golden)
        found[kind] = {
            "optimization": level,
            "vs_source": rel_l2(ours, source),
            "precision_cost": rel_l2(judged[kind], judged["fp32"]),
            "runtime_cost": rel_l2(ours, judged[kind]),
            "metric": score(spearman, outputs(opened, evaluation), source_evaluation),
        }
        candidates[kind] = partial(opened.run, [OUTPUT], feeds)
    with torch.inference_mode():
        candidates["torch eager"] = partial(module, *tensors(feeds))
        found["p50_ms"] = benchmark(candidates)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
