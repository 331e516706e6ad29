"""`trtflow show --layers` on what a run kept, and the step that keeps it, on a runtime that times no layers."""

import json

import pytest

from flows.commands.layers import Shown
from tasks.core.environment import environment
from tasks.core.report import FileRecord, Recipe, Report
from tasks.runtimes.base import LayerTime
from tasks.runtimes.engine_layers import Graph, LayersMetrics
from tasks.runtimes.layer_times import LAYERS, write_layers
from tests.commands import Call
from tests.projects import Project

ID = "onnxruntime/fp32"
TOLD = {
    "Layers": [
        {
            "Name": "mul + relu",
            "LayerType": "gemm",
            "Inputs": [{"Name": "x", "Format/Datatype": "Row major linear FP32"}],
            "Outputs": [{"Name": "y", "Format/Datatype": "Row major linear FP16 format"}],
            "Metadata": "[ONNX Layer: mul]\u001f[ONNX Layer: relu]",
        },
        {"Name": "Reformatting CopyNode for Output Tensor 0 to mul + relu", "LayerType": "Reformat"},
        {"Name": "constants", "LayerType": "Constant"},
    ],
    "Bindings": ["x", "y"],
}
TIMES = (
    LayerTime(name="mul + relu", kind="", nanoseconds=7500),
    LayerTime(name="Reformatting CopyNode for Output Tensor 0 to mul + relu", kind="", nanoseconds=2500),
)


@pytest.fixture
def kept(done: Project) -> Project:
    """A project whose last run has a table for its engine, as the step leaves one where the runtime has layers."""
    folder = done.store / "tiny" / "layers" / "0123456789abcdef0123"
    folder.mkdir(parents=True)
    graph = Graph(operators={"mul": "MatMul", "relu": "Relu", "gone": "Identity"})
    metrics = write_layers(folder / LAYERS, json.dumps(TOLD), TIMES, graph)
    report = Report(
        pipeline="tiny",
        step="layers",
        subject=ID,
        key="0123456789abcdef0123" + "0" * 44,
        recipe=Recipe(pipeline="tiny", step="layers", version=1, subject=ID),
        observed=None,
        environment=environment(),
        started="2026-11-21T00:00:00.000+00:00",
        seconds=0.1,
        files=(FileRecord(name=LAYERS, bytes=(folder / LAYERS).stat().st_size, sha256="0" * 64),),
        metrics=metrics.model_copy(update={"at": {"batch": 2}}).model_dump(mode="json"),
    )
    (folder / "report.json").write_text(report.model_dump_json())
    record = done.record("tiny")
    added = record.model_copy(update={"artifacts": (*record.artifacts, "tiny/layers/0123456789abcdef0123")})
    (done.store / "tiny" / "runs" / record.outcome.run / "run.json").write_text(added.model_dump_json())
    return done


@pytest.mark.parametrize("wanted", [(), (ID,), ("fp32",)])
def test_the_table_has_layers_by_time(kept: Project, call: Call, wanted: tuple[str, ...]) -> None:
    said = call(kept, "show", "tiny", "--layers", *wanted)
    assert said.code == 0, said.err
    first, head, *rows = said.out.splitlines()
    assert first.endswith(f"{ID}, at batch 2")
    assert head.split() == ["layer", "kind", "ONNX", "nodes", "precision", "us", "share"]
    assert rows[0].split() == ["mul", "+", "relu", "gemm", "mul,", "relu", "fp32", "->", "fp16", "7.5", "75.0%"]
    assert "Reformat " in rows[1]
    assert rows[2] == "3 layers, 10.0 us: 1 of several nodes, 1 reformats (25.0% of the time), 1 without a time"
    assert "2 ONNX nodes are in layers, 1 in none" in rows[3]


def test_json_holds_the_whole_table(kept: Project, call: Call) -> None:
    shown = Shown.model_validate(call(kept, "show", "tiny", "--layers", "--json").json)
    assert (shown.id, len(shown.table.layers), shown.metrics.reformats) == (ID, 3, 1)
    assert shown.table.layers[0].operators == ("MatMul", "Relu")
    assert shown.table.nodes_without_layer == ("gone",)
    assert isinstance(shown.metrics, LayersMetrics)


def test_a_result_without_a_table_says_why(done: Project, call: Call) -> None:
    said = call(done, "show", "tiny", "--layers")
    assert said.code == 1
    assert "onnxruntime does not time them" in said.err
    said = call(done, "show", "tiny", "--layers", "onnxruntim/fp32")
    assert said.code == 2
    assert "has no result 'onnxruntim/fp32'" in said.err
    said = call(done, "show", "tiny", "--layers", "--where")
    assert said.code == 2


def test_a_damaged_table_is_a_plain_error(kept: Project, call: Call) -> None:
    (kept.store / "tiny" / "layers" / "0123456789abcdef0123" / LAYERS).write_text("{")
    said = call(kept, "show", "tiny", "--layers")
    assert said.code == 1
    assert "is not a table of layers" in said.err
