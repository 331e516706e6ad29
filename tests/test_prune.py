"""The step `prune`: an artifact like any other, that decides and is decided by what it should."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from flows.journal import Journal
from tasks.context import Context
from tasks.core.config import PipelineConfig, PrecisionConfig
from tasks.core.errors import StepError
from tasks.core.locks import HostLock
from tasks.core.report import Artifact
from tasks.core.store import Store
from tasks.data import prepare_data
from tasks.export import export
from tasks.fold import fold
from tasks.homes import ONNX
from tasks.inspect import inspect_source, signature_of
from tasks.prune import prune
from tasks.quantize import quantize
from tasks.runtimes.isolate import Workers
from tasks.sources.onnx_graph import GraphFacts
from tasks.sources.onnx_prune import PruneMetrics
from tests.projects import graph, linear, value

PATTERN = PrecisionConfig.model_validate({"fp32": {"name": "sparse", "prune": {"pattern": "2:4"}}})
SHARE = PrecisionConfig.model_validate({"fp32": {"name": "fewer", "prune": {"sparsity": 0.25}}})


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(timeout_seconds=120) as started:
        started.warm(ONNX)
        yield started


def context_of(folder: Path, workers: Workers, model: onnx.ModelProto, location: str | None = None) -> Context:
    (folder / "project").mkdir(parents=True)
    if location:
        onnx.external_data_helper.set_external_data(model.graph.initializer[0], location)
    onnx.save(model, folder / "project" / "model.onnx")
    config = PipelineConfig.model_validate({"model": {"onnx": "model.onnx"}})
    return Context("p", config, Store(folder / "store", folder / "project"), workers, Journal(), HostLock(folder))


def folded(context: Context) -> tuple[Artifact, Artifact]:
    facts = context.metrics(inspect_source(context), GraphFacts)
    data = prepare_data(context, signature_of("p", context.config, facts))
    exported = export(context, signature_of("p", context.config, facts), data, facts.external_files)
    return data, fold(context, data, exported)


def weight_of(context: Context, artifact: Artifact) -> "np.ndarray[Any, Any]":
    """Read it as the steps do: onnx's own reader refuses external data that has two names."""
    path = context.model_file(artifact)
    (weight,) = onnx.load(path, load_external_data=False).graph.initializer
    if weight.external_data:
        weight.raw_data = (path.parent / "model.onnx.data").read_bytes()
        weight.data_location = onnx.TensorProto.DEFAULT
    return numpy_helper.to_array(weight)


def test_a_pruned_graph_is_cached_by_how_it_was_pruned(tmp_path: Path, workers: Workers) -> None:
    context = context_of(tmp_path, workers, linear())
    _, dense = folded(context)
    sparse, fewer = prune(context, dense, PATTERN), prune(context, dense, SHARE)
    assert (weight_of(context, sparse) == 0).mean(axis=0).tolist() == [0.5, 0.5, 0.5]
    assert (weight_of(context, fewer) == 0).sum() == 3
    assert context.metrics(sparse, PruneMetrics).zeros_overall == 0.5
    renamed = PATTERN.model_copy(update={"name": "other"})
    assert prune(context, dense, renamed) == sparse
    again = prune(context, dense, SHARE.model_copy(update={"kind": "fp16"}))
    assert again == fewer


def test_a_pruned_graph_is_quantised_like_a_folded_one_with_its_weights_beside_it(
    tmp_path: Path, workers: Workers
) -> None:
    context = context_of(tmp_path, workers, linear(), "weights.bin")
    data, dense = folded(context)
    sparse = prune(context, dense, PATTERN)
    assert {"model.onnx", "model.onnx.data"} <= set(sparse.files)
    typed = quantize(context, data, sparse, PATTERN)
    assert (weight_of(context, typed) == 0).sum() == 6
    assert quantize(context, data, dense, PATTERN) != typed


def test_what_cannot_be_pruned_is_an_error_and_leaves_nothing(tmp_path: Path, workers: Workers) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    odd = graph([node], [value("x", [2, 3])], [value("y", [2, 4])], w=np.ones((3, 4), np.float32))
    context = context_of(tmp_path, workers, odd)
    _, dense = folded(context)
    with pytest.raises(StepError, match="w: a sum along its axis 0 takes 3 values, no multiple of 4"):
        prune(context, dense, PATTERN)
    assert not [path for path in (context.store.root / "p" / "prune").iterdir() if path.is_dir()]
