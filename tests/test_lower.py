"""The step `lower`: for engines whose parser reads an older opset, between the typed graph and the build."""

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import yaml
from onnx import helper

from flows.journal import Journal
from tasks.context import Context
from tasks.core.config import EngineConfig, PipelineConfig, PrecisionConfig
from tasks.core.errors import CannotRun
from tasks.core.locks import HostLock
from tasks.core.report import Artifact
from tasks.core.store import Store, read_report
from tasks.data import prepare_data
from tasks.earlier import exported_of
from tasks.export import export
from tasks.fold import fold
from tasks.homes import ONNX
from tasks.inspect import inspect_source, signature_of
from tasks.lower import lower
from tasks.quantize import quantize
from tasks.repro import read_request
from tasks.runtimes.isolate import Workers
from tasks.runtimes.tensorrt_dialects import Reads
from tasks.sources.onnx_graph import GraphFacts
from tasks.sources.onnx_lower import LowerMetrics
from tasks.target import Target
from tests.commands import Call
from tests.flows.test_interpreters import environment
from tests.projects import QUICK, Project, graph, value

READS = Reads(opset=17, ir_version=8)
TARGET = Target(
    engine=EngineConfig(runtime="tensorrt", name="trt86"), precision=PrecisionConfig(kind="fp32", name="fp32")
)


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(timeout_seconds=120) as started:
        started.warm(ONNX)
        yield started


def net(*nodes: onnx.NodeProto, opset: int = 20) -> onnx.ModelProto:
    """What ends in y of a product of x with a weight."""
    product = helper.make_node("MatMul", ["x", "w"], ["p"], name="product")
    weight = np.linspace(-1, 1, 8192, dtype=np.float32).reshape(4, 2048)
    model = graph([product, *nodes], [value("x", [2, 4])], [value("y", [2, "n"])], w=weight)
    model.opset_import[0].version, model.ir_version = opset, 8
    return model


def typed(folder: Path, workers: Workers, model: onnx.ModelProto) -> tuple[Context, Artifact, Artifact, Artifact]:
    """The context of a pipeline, its data, its export and its fp32 graph, with the weights beside it."""
    (folder / "project").mkdir(parents=True)
    saving = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}
    onnx.save(model, folder / "project" / "model.onnx", **saving)  # type: ignore[arg-type]
    config = PipelineConfig.model_validate({"model": {"onnx": "model.onnx"}})
    context = Context("p", config, Store(folder / "store", folder / "project"), workers, Journal(), HostLock(folder))
    facts = context.metrics(inspect_source(context), GraphFacts)
    signature = signature_of("p", config, facts)
    data = prepare_data(context, signature)
    exported = export(context, signature, data, facts.external_files)
    return context, data, exported, quantize(context, data, fold(context, data, exported), TARGET.precision)


def test_a_typed_graph_is_lowered_once_with_its_weights_beside_it(tmp_path: Path, workers: Workers) -> None:
    gelu = helper.make_node("Gelu", ["p"], ["y"], name="gelu")
    context, data, exported, made = typed(tmp_path, workers, net(gelu))
    lowered = lower(context, TARGET, data, made, READS)
    metrics = context.metrics(lowered, LowerMetrics)
    assert (metrics.opset_before, metrics.facts.opset, metrics.not_compared) == (20, 17, "")
    model = onnx.load(context.model_file(lowered), load_external_data=False)
    assert {"Erf", "MatMul"} <= {node.op_type for node in model.graph.node}
    assert {"model.onnx", *metrics.facts.external_files} <= set(lowered.files)
    assert metrics.facts.external_files
    assert exported_of(context.store, lowered) == exported
    other = TARGET.model_copy(update={"engine": TARGET.engine.model_copy(update={"name": "other"})})
    assert lower(context, other, data, made, READS) == lowered
    assert lower(context, TARGET, data, made, Reads(opset=21, ir_version=10)) != lowered


def test_what_is_old_enough_is_the_same_file(tmp_path: Path, workers: Workers) -> None:
    context, data, _, made = typed(tmp_path, workers, net(helper.make_node("Relu", ["p"], ["y"]), opset=17))
    lowered = lower(context, TARGET, data, made, READS)
    assert context.model_file(lowered).samefile(context.model_file(made))
    folder = context.store.folder(lowered)
    assert read_request(folder).files["model.onnx"].endswith(f"{made.folder}/model.onnx")
    assert read_report(folder).metrics["unchanged"] is True


def test_what_cannot_be_lowered_leaves_nothing(tmp_path: Path, workers: Workers) -> None:
    nodes = [
        helper.make_node("Cast", ["p"], ["i"], to=onnx.TensorProto.INT32),
        helper.make_node("BitwiseNot", ["i"], ["b"], name="flip"),
        helper.make_node("Cast", ["b"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    context, data, _, made = typed(tmp_path, workers, net(*nodes))
    with pytest.raises(CannotRun, match=r"BitwiseNot .'flip'. is not in the opset that this TensorRT reads"):
        lower(context, TARGET, data, made, READS)
    assert not [path for path in (context.store.root / "p" / "lower").iterdir() if path.is_dir()]


@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra tensorrt-rtx is not installed")
def test_an_engine_is_built_from_the_lowered_graph(tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """By TensorRT-RTX, which builds here, as if its parser read no more than that of 8.6 does."""
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    monkeypatch.setattr("flows.convert.reads", lambda place, _: READS if place.runtime == "tensorrt-rtx" else None)
    onnx.save(net(helper.make_node("Gelu", ["p"], ["y"])), project.folder / "model.onnx")
    engines = [{"runtime": "onnxruntime"}, {"runtime": "tensorrt-rtx"}]
    project.write(net={**QUICK, "model": {"onnx": "model.onnx"}, "engines": engines})
    done = project.run("run", "--json")
    assert done.code == 0, done.stdout + done.stderr
    assert done.status("net", "lower") == "done"
    built = read_report(project.store / str(done.engine("net", "tensorrt-rtx/fp32").artifact))
    (lowered,) = (folder for folder in built.recipe.lineage if "/lower/" in folder)
    assert not [folder for folder in built.recipe.lineage if "/quantize/" in folder]
    again = call(project, "repro", lowered, "--json")
    assert again.json["files"] == {"model.onnx": "identical"}, again.err


def test_only_engines_whose_parser_reads_an_older_opset_have_the_step(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "project").mkdir()
    project = Project(tmp_path / "project")
    for name, version in (("trt86", "8.6.1"), ("trt10", "10.16.1.11"), ("trt11", "11.4.0.106")):
        packages = environment(project.folder / name)
        (packages / "ours.pth").unlink()
        (packages / f"tensorrt-{version}.dist-info").mkdir()
    onnx.save(net(helper.make_node("Relu", ["p"], ["y"])), project.folder / "model.onnx")
    names = ("trt86", "trt10", "trt11")
    engines = [{"name": name, "runtime": "tensorrt", "interpreter": name} for name in names]
    document = {
        "version": 1,
        "interpreters": {name: {"python": f"{name}/bin/python"} for name in names},
        "pipelines": {"net": {**QUICK, "model": {"onnx": "model.onnx"}, "precisions": ["fp32", "bf16"]}},
    }
    document["pipelines"]["net"]["engines"] = [{"runtime": "onnxruntime"}, *engines]  # type: ignore[index]
    (project.folder / "pipelines.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setattr("flows.convert.runs_here", lambda _: True)  # a plan builds nothing, also without a GPU
    plan = call(project, "plan", "net", "--json")
    assert plan.code == 0, plan.err
    steps = [f"{step['step']} {step['subject']}" for step in plan.json["plans"][0]["steps"]]
    lowered = {step for step in steps if step.startswith("lower ")}
    assert lowered == {"lower trt86/fp32", "lower trt10/fp32", "lower trt10/bf16"}  # 8.6 has no bf16 to lower for
    assert steps.index("lower trt86/fp32") < steps.index("build trt86/fp32")
