"""The step that attributes a precision's error, on artifacts of a store, in a worker."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from flows.journal import Journal
from tasks.context import Context, Work, params
from tasks.core.config import OnnxModel, PipelineConfig, PrecisionConfig
from tasks.core.report import Artifact
from tasks.core.sets import GOLDEN
from tasks.core.store import Made, Store
from tasks.core.tensors import save_batches
from tasks.core.tolerances import PARITY
from tasks.runtimes.attribution import TENSORS, Attribution, WhereMetrics
from tasks.runtimes.isolate import Workers
from tasks.sources.onnx_graph import read_facts
from tasks.step import StepOptions
from tasks.where import Graphs, where
from tests.projects import graph, value

FP16 = PrecisionConfig(kind="fp16", name="fp16")


def model(gain: float) -> onnx.ModelProto:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], name="mix"),
        helper.make_node("Mul", ["a", "gain"], ["m"], name="gain"),
        helper.make_node("Tanh", ["m"], ["y"], name="squash"),
    ]
    weights = {"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3), "gain": np.array([gain] * 3, np.float32)}
    return graph(nodes, [value("x", [2, 4])], [value("y", [2, 3])], **weights)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers() as started:
        yield started


@pytest.fixture
def context(tmp_path: Path, workers: Workers) -> Context:
    config = PipelineConfig(model=OnnxModel(onnx="model.onnx"))
    return Context("tiny", config, Store(tmp_path / "artifacts", tmp_path), workers, Journal())


def kept(context: Context, name: str, gain: float, *, external: bool = False) -> Artifact:
    """An artifact with a model.onnx, as the steps that make graphs leave one."""

    def make(folder: Path) -> Made:
        path = folder / "model.onnx"
        onnx.save(model(gain), path, save_as_external_data=external, location="w.bin", size_threshold=0)
        return Made({"facts": params(read_facts(onnx.load(path, load_external_data=False)))})

    recipe = context.recipe(StepOptions(name)).model_copy(update={"params": {"gain": gain}})
    return context.produce(Work(recipe, make))


def graphs(context: Context, gain: float) -> Graphs:
    folded = kept(context, "fold", 2.0, external=True)
    return kept(context, "export", 2.0), folded, kept(context, "quantize", gain)


def golden(context: Context) -> Artifact:
    def make(folder: Path) -> Made:
        rng = np.random.default_rng(1)
        save_batches(folder / GOLDEN, [{"x": rng.standard_normal((2, 4), dtype=np.float32)} for _ in range(2)])
        return Made({})

    return context.produce(Work(context.recipe(StepOptions("data")), make))


def computed(context: Context) -> bool:
    assert isinstance(context.journal, Journal)
    return context.journal.entries["where", "fp16"].state == "made"


def test_report_is_the_summary_and_the_file_holds_every_tensor(context: Context) -> None:
    artifact = where(context, golden(context), graphs(context, 2.5), FP16)
    found = context.metrics(artifact, WhereMetrics)
    assert found.bound == PARITY["fp16"].rel_l2
    assert found.first_bad is not None
    assert (found.first_bad.name, found.first_bad.node) == ("m", "gain")
    assert found.first_bad.rel_l2 == pytest.approx(0.25)
    assert [tensor.name for tensor in found.most_added] == ["m"]
    whole = Attribution.model_validate_json(context.file(artifact, TENSORS).read_bytes())
    assert [tensor.name for tensor in whole.tensors] == ["a", "m", "y"]
    assert set(artifact.files) == {TENSORS, "request.json"}


def test_what_was_attributed_once_is_found_again(context: Context) -> None:
    given = (context, golden(context), graphs(context, 2.5), FP16)
    first = where(*given)
    assert computed(context)
    again = Context(context.pipeline, context.config, context.store, context.workers, Journal())
    assert where(again, *given[1:]) == first
    assert not computed(again)


def test_another_typed_graph_is_attributed_anew(context: Context) -> None:
    data = golden(context)
    first = where(context, data, graphs(context, 2.5), FP16)
    other = where(context, data, graphs(context, 2.0), FP16)
    assert other != first
    assert context.metrics(other, WhereMetrics).first_bad is None
