"""What a Config takes and refuses, as values."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from tasks.core.config import (
    PRECISIONS,
    BenchmarkConfig,
    Config,
    DimRange,
    FoldConfig,
    OnnxModel,
    PipelineConfig,
    PrecisionConfig,
    RepairConfig,
    TorchModel,
    complete,
)

IMAGE = {"image": {"dtype": "float32", "shape": ["batch", 1, 8, 8]}}
BATCH = {"batch": {"min": 1, "opt": 32, "max": 256}}
METRIC = {"evaluation": {"source": "m:e", "metric": {"function": "m:top1"}}}


def torch_pipeline(**sections: object) -> dict[str, Any]:
    return {"model": {"torch": "models.digits:build"}, "inputs": IMAGE, "dims": BATCH, **sections}


def onnx_pipeline(**sections: object) -> dict[str, Any]:
    return {"model": {"onnx": "model.onnx"}, **sections}


def refused(pipeline: dict[str, Any]) -> dict[str, str]:
    """Give what each refused path of a pipeline was told."""
    with pytest.raises(ValidationError) as caught:
        PipelineConfig.model_validate(pipeline)
    told = {}
    for error in caught.value.errors():
        for problem in error.get("ctx", {}).get("problems") or [error["msg"]]:
            message, path = (problem, ()) if isinstance(problem, str) else (problem.message, problem.path)
            told[".".join(map(str, (*error["loc"], *path)))] = message
    return told


def test_smallest_pipeline_has_a_default_for_everything_else() -> None:
    pipeline = Config.model_validate({"version": 1, "pipelines": {"tiny": onnx_pipeline()}}).pipelines["tiny"]
    assert pipeline.model == OnnxModel(onnx="model.onnx")
    assert (pipeline.inputs, pipeline.dims, pipeline.precisions, pipeline.engines) == (None, {}, None, None)
    assert (pipeline.benchmark.at, pipeline.benchmark.seconds, pipeline.benchmark.baselines) == (None, 2.0, True)
    assert (pipeline.promote.by, pipeline.promote.at) == ("latency_p50_ms", None)
    assert (pipeline.export.opset, pipeline.export.exporter, pipeline.fold.tool) == (20, "auto", "graphsurgeon")
    assert (pipeline.gates.metric_drop, pipeline.schedule, pipeline.on_retrain) == (None, None, False)


def test_config_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        BenchmarkConfig().seconds = 3.0


def test_config_survives_json() -> None:
    precisions = ["fp32", {"fp16": {"name": "half", "exclude": {"op_types": ["Add"]}}}]
    pipelines = {"digits": torch_pipeline(precisions=precisions, fold={"with": "polygraphy"}), "tiny": onnx_pipeline()}
    config = Config.model_validate({"version": 1, "pipelines": pipelines})
    assert Config.model_validate_json(config.model_dump_json()) == config


def test_schema_describes_precisions_as_yaml_writes_them() -> None:
    schema = Config.model_json_schema()["$defs"]["PrecisionConfig"]
    assert schema["anyOf"][0] == {"enum": list(PRECISIONS)}
    assert sorted(schema["anyOf"][1]["properties"]) == sorted(PRECISIONS)
    assert '"kind"' not in json.dumps(schema)


@pytest.mark.parametrize(
    ("written", "kind", "name", "optional"),
    [
        ("fp16", "fp16", "fp16", False),
        ({"fp16": None}, "fp16", "fp16", False),
        ({"fp16": {"optional": True}}, "fp16", "fp16", True),
        ({"typed": {"name": "theirs"}}, "typed", "theirs", False),
    ],
)
def test_precision_is_written_as_its_kind_or_with_options(
    written: object, kind: str, name: str, optional: bool
) -> None:
    precision = PrecisionConfig.model_validate(written)
    assert (precision.kind, precision.name, precision.optional) == (kind, name, optional)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"fp32": {}, "fp16": {}}, "found 2 keys, expected one precision"),
        ({}, "found 0 keys"),
        ({"fp16": 3}, "no mapping"),
        ({"fp16": {"kind": "fp32"}}, "given twice"),
        (3, "found 3, expected a precision"),
        ({"int8": {"method": "awq"}}, "int8 has no method 'awq'"),
        ({"bf16": {"method": "max"}}, "bf16 has no method 'max'"),
        ({"int8": {"with": "onnxruntime", "method": "entropy"}}, "not to int8 by entropy"),
        ({"fp8": {"with": "onnxruntime"}}, "not to fp8 by max"),
        ({"int4": {"repair": {"until": {"rel_l2": 0.1}}}}, "int4 has none that can be"),
        ({"fp8": {"method": "trt-entropy"}}, "fp8 has no method 'trt-entropy'"),
        ({"int8": {"method": "trt-entropy", "exclude": {"op_types": ["Add"]}}}, "lowers nothing in the graph"),
        (
            {"int8": {"method": "trt-entropy", "repair": {"until": {"cosine": 1}}}},
            "by trt-entropy has none that can be",
        ),
        ({"int8": {"repair": {"until": {}}}}, "there is no bound to reach"),
        ({"int8": {"repair": {"until": {"rel_l2": 0.1}, "budget": "soon"}}}, "'soon' is no time"),
        ({"int8": {"prune": {}}}, "exactly one of 'pattern' and 'sparsity'"),
        ({"int8": {"prune": {"pattern": "2:4", "sparsity": 0.5}}}, "exactly one of 'pattern' and 'sparsity'"),
        ({"typed": {"prune": {"sparsity": 0.5}}}, "a typed graph is taken as it is"),
        ({"fp16": {"name": "a/b"}}, "cannot be a name"),
        ({"fp32": {"exclude": {"op_types": ["Add"]}}}, "fp32 lowers nothing"),
        ({"fp16": {"exclude": {"nodes": ["(a"]}}}, "not a regular expression"),
    ],
)
def test_precision_refuses(written: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        PrecisionConfig.model_validate(written)


@pytest.mark.parametrize(
    ("written", "method", "calibrated"),
    [("int8", "max", True), ("fp8", "max", True), ("int4", "awq", True), ("fp16", None, False), ("bf16", None, False)],
)
def test_a_method_is_filled_in(written: str, method: str | None, calibrated: bool) -> None:
    precision = PrecisionConfig.model_validate(written)
    assert (precision.method, precision.calibrated) == (method, calibrated)


def test_int4_by_rtn_needs_no_data() -> None:
    assert not PrecisionConfig.model_validate({"int4": {"method": "rtn"}}).calibrated


@pytest.mark.parametrize(("written", "seconds"), [("90s", 90), ("2m", 120), ("1.5h", 5400), (30, 30), ("7", 7)])
def test_a_budget_is_a_time(written: object, seconds: float) -> None:
    repair = RepairConfig.model_validate({"until": {"cosine": 0.9}, "or": {"rel_l2": 0.3}, "budget": written})
    assert repair.budget == seconds
    assert [goal.model_dump(exclude_none=True) for goal in repair.goals] == [{"cosine": 0.9}, {"rel_l2": 0.3}]


def test_fold_tool_has_a_name_that_is_no_keyword() -> None:
    assert FoldConfig.model_validate({"with": "polygraphy"}) == FoldConfig(tool="polygraphy")


def test_a_timeout_decides_nothing_that_is_built() -> None:
    hasty = {"runtime": "tensorrt", "options": {"timeout": "90s"}}
    pipelines = [PipelineConfig.model_validate(onnx_pipeline(engines=[e])) for e in (hasty, {"runtime": "tensorrt"})]
    with_timeout, without = (pipeline.engines[0] for pipeline in pipelines if pipeline.engines)
    assert with_timeout.options.timeout == 90
    assert with_timeout.chosen() == without.chosen()


def test_engine_is_named_after_its_runtime() -> None:
    written = [{"runtime": "onnxruntime"}, {"runtime": "reference", "name": "slow"}]
    engines = PipelineConfig.model_validate(onnx_pipeline(engines=written)).engines or ()
    assert [engine.name for engine in engines] == ["onnxruntime", "slow"]


@pytest.mark.parametrize("name", ["a", "9", "A.b-c_d", "x" * 64])
def test_pipeline_may_be_called(name: str) -> None:
    Config.model_validate({"version": 1, "pipelines": {name: onnx_pipeline()}})


@pytest.mark.parametrize("name", ["", "a/b", "a b", "..", "a..b", ".a", "-a", "x" * 65, "a\n", "é"])
def test_pipeline_may_not_be_called(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be a name"):
        Config.model_validate({"version": 1, "pipelines": {name: onnx_pipeline()}})


@pytest.mark.parametrize("version", [True, 1.0, "1", 2, None])
def test_version_is_the_number_1(version: object) -> None:
    with pytest.raises(ValidationError):
        Config.model_validate({"version": version, "pipelines": {"tiny": onnx_pipeline()}})


@pytest.mark.parametrize("model", [{}, {"torch": "m:f", "onnx": "x"}, {"files": []}, "model.onnx", None, 3])
def test_model_is_exactly_one_of_torch_and_onnx(model: object) -> None:
    told = refused({"model": model})
    assert "expected exactly one of the keys 'torch' and 'onnx'" in told["model"]


def test_model_is_of_the_framework_that_it_names() -> None:
    written = {"torch": "m:f", "checkpoint": "w.pt", "files": ["data/*.txt"]}
    model = PipelineConfig.model_validate(torch_pipeline(model=written)).model
    assert model == TorchModel(torch="m:f", checkpoint="w.pt", files=("data/*.txt",))


@pytest.mark.parametrize("reference", ["m", "m:", ":f", "m:f:g", "m.:f", "m:f()", "m-n:f", "a/b.py:f"])
def test_function_is_module_colon_name(reference: str) -> None:
    told = refused(torch_pipeline(model={"torch": reference}))
    assert "is not module:function" in told["model.TorchModel.torch"]


@pytest.mark.parametrize("source", ["m:f", "a.b:c", "data/x.npz", "C:/x.npz"])
def test_source_is_a_function_or_an_npz(source: str) -> None:
    PipelineConfig.model_validate(onnx_pipeline(data={"calibration": {"source": source}}))


@pytest.mark.parametrize("source", ["data/x.csv", "m", "", "a\0.npz"])
def test_source_is_nothing_else(source: str) -> None:
    assert list(refused(onnx_pipeline(data={"evaluation": {"source": source}}))) == ["data.evaluation.source"]


INT64 = {"dtype": "int64", "shape": ["batch"]}
OWN = {"int8": {"name": "own", "method": "trt-entropy"}}
RANGES = {"calibration": {"source": "m:c", "samples": 8}}
TWO_POINTS = {"at": [{"batch": 1}, {"batch": 32}]}

INCONSISTENT: list[tuple[dict[str, Any], str, str]] = [
    ({"model": {"torch": "m:f"}}, "", "a torch model needs 'inputs'"),
    (torch_pipeline(inputs={}), "inputs", "no input is named"),
    (torch_pipeline(dims={}), "inputs.image.shape.0", "'batch' is a dim without a range"),
    (torch_pipeline(dims={**BATCH, "time": BATCH["batch"]}), "dims.time", "no input has a dim 'time'"),
    (torch_pipeline(inputs={"x": {"dtype": "float32", "shape": ["batch", 0]}}), "inputs.x.shape.1", "at least 1"),
    (torch_pipeline(inputs={"x": {**INT64, "range": [3, 1]}}), "inputs.x.range", "begins at 3"),
    (torch_pipeline(inputs={"x": {**INT64, "range": [0, float("inf")]}}), "inputs.x.range", "no finite ends"),
    (onnx_pipeline(dims={"n": {"min": 4, "opt": 2, "max": 8}}), "dims.n", "expected min <= opt <= max"),
    (onnx_pipeline(dims={"n": {"min": 1, "opt": 9, "max": 8}}), "dims.n", "expected min <= opt <= max"),
    (torch_pipeline(benchmark={"at": [{"batch": 1}, {"bacth": 2}]}), "benchmark.at.1.bacth", "is no dim"),
    (torch_pipeline(benchmark={"at": [{"batch": 257}]}), "benchmark.at.0.batch", "outside the range"),
    (torch_pipeline(benchmark={"at": [{}, {"batch": 32}]}), "benchmark.at.1", "listed twice"),
    (torch_pipeline(benchmark=TWO_POINTS, promote={"at": {"batch": 8}}), "promote.at", "not one of benchmark.at"),
    (torch_pipeline(benchmark=TWO_POINTS, promote={"at": {"batch": 999}}), "promote.at.batch", "outside the range"),
    (torch_pipeline(promote={"at": {"batch": 8}}), "promote.at", "not one of benchmark.at"),
    (torch_pipeline(promote={"at": {"time": 8}}), "promote.at.time", "is no dim"),
    (onnx_pipeline(precisions=["fp16", "fp16"]), "precisions.1", "'fp16' is already taken"),
    (onnx_pipeline(precisions=["fp16", {"fp32": {"name": "fp16"}}]), "precisions.1", "already taken"),
    (onnx_pipeline(engines=[{"runtime": "reference"}] * 2), "engines.1", "'reference' is already taken"),
    (
        onnx_pipeline(precisions=["fp32"], engines=[{"runtime": "reference", "precisions": ["fp32", "fp16"]}]),
        "engines.0.precisions.1",
        "'fp16' names no declared precision",
    ),
    (
        onnx_pipeline(engines=[{"runtime": "reference", "precisions": ["fp16", "fp16"]}]),
        "engines.0.precisions.1",
        "listed twice",
    ),
    (onnx_pipeline(precisions=[]), "precisions", "at least 1 item"),
    (onnx_pipeline(precisions=["int8"]), "precisions.0", "int8 by max takes its ranges from calibration data"),
    (onnx_pipeline(precisions=["fp32", "int4"]), "precisions.1", "int4 by awq takes its ranges from calibration data"),
    (onnx_pipeline(precisions=[OWN]), "precisions.0", "int8 by trt-entropy takes its ranges from calibration data"),
    (onnx_pipeline(data=RANGES, precisions=[OWN]), "precisions", "'own' is calibrated by TensorRT 8.6 as it builds"),
    (
        onnx_pipeline(data=RANGES, precisions=[OWN], engines=[{"runtime": "tensorrt"}, {"runtime": "tensorrt-rtx"}]),
        "engines.1.runtime",
        "which tensorrt-rtx does not",
    ),
    (
        onnx_pipeline(data=RANGES, precisions=[OWN], engines=[{"runtime": "onnxruntime", "precisions": ["own"]}]),
        "engines.0.precisions",
        "which onnxruntime does not",
    ),
    (
        onnx_pipeline(engines=[{"runtime": "tensorrt", "options": {"strip_plan": True}}]),
        "engines.0.options.strip_plan",
        "is not refittable",
    ),
    (
        onnx_pipeline(engines=[{"runtime": "tensorrt", "options": {"timeout": "soon"}}]),
        "engines.0.options.timeout",
        "'soon' is no time",
    ),
    (
        onnx_pipeline(engines=[{"runtime": "tensorrt", "options": {"timeout": 0}}]),
        "engines.0.options.timeout",
        "greater than 0",
    ),
    (onnx_pipeline(engines=[]), "engines", "at least 1 item"),
    (
        onnx_pipeline(engines=[{"runtime": "onnxruntime", "options": {"tf32": True}}]),
        "engines.0.options.tf32",
        "onnxruntime has no option 'tf32'",
    ),
    (
        onnx_pipeline(engines=[{"runtime": "reference", "options": {"device": "cuda"}}]),
        "engines.0.options.device",
        "the reference runtime has no device 'cuda'",
    ),
    (onnx_pipeline(gates={"metric_drop": 0.02}), "gates.metric_drop", "no metric to drop"),
    (onnx_pipeline(data=METRIC, gates={"metric_drop": -1}), "gates.metric_drop", "greater than or equal to 0"),
    (onnx_pipeline(promote={"by": "metric"}), "promote.by", "no metric to promote by"),
    (onnx_pipeline(gates={"parity": {"fp16": {}}}), "gates.parity.fp16", "the gate has no bound"),
    (onnx_pipeline(gates={"parity": {"fp16": {"rel_l2": -1}}}), "gates.parity.fp16.rel_l2", "greater than"),
    (onnx_pipeline(gates={"parity": {"fp16": {"cosine": 1.1}}}), "gates.parity.fp16.cosine", "less than"),
    (onnx_pipeline(gates={"parity": {"fp16": {"top1_agreement": 2}}}), "gates.parity.fp16.top1_agreement", "less than"),
    (onnx_pipeline(gates={"parity": {"fp16": {"cosine": float("nan")}}}), "gates.parity.fp16.cosine", "finite"),
    (onnx_pipeline(benchmark={"seconds": 0}), "benchmark.seconds", "greater than 0"),
    (onnx_pipeline(benchmark={"at": []}), "benchmark.at", "at least 1 item"),
    (onnx_pipeline(benchmark={"at": [{"n": 0}]}), "benchmark.at.0.n", "greater than or equal to 1"),
    (onnx_pipeline(data={"calibration": {"source": "m:f", "samples": 0}}), "data.calibration.samples", "equal to 1"),
    (onnx_pipeline(export={"opset": 17}), "export.opset", "greater than or equal to 18"),
    (onnx_pipeline(export={"opset": 24}), "export.opset", "less than or equal to 23"),
    (onnx_pipeline(export={"opset": 18}), "export", "an ONNX model is not exported"),
    (onnx_pipeline(outputs=["y"]), "outputs", "an ONNX model names its own outputs"),
    (torch_pipeline(outputs=["y", "y"]), "outputs", "named twice"),
    (onnx_pipeline(schedule={"cron": "0 0 30 2 *"}), "schedule.cron", "is never: no such month has a day 30"),
    (onnx_pipeline(schedule={"cron": "0 0 31 apr,6-9/3,11 *"}), "schedule.cron", "is never"),
    (onnx_pipeline(schedule={"cron": "0 3 * *"}), "schedule.cron", "has 4 fields, expected 5"),
    (onnx_pipeline(schedule={"cron": "0 3 * * *", "timezone": "Mars/Base"}), "schedule.timezone", "no time zone"),
    (onnx_pipeline(schedule={"cron": "0 3 * * *", "timezone": "America"}), "schedule.timezone", "no time zone"),
    (onnx_pipeline(schedule={"cron": "0 3 * * *", "timezone": "../etc"}), "schedule.timezone", "no time zone"),
    (
        onnx_pipeline(data={"evaluation": {"source": "m:e", "metric": {"function": "m:f", "min": 2, "max": 1}}}),
        "data.evaluation.metric",
        "min 2.0 is above max 1.0",
    ),
]


@pytest.mark.parametrize(("pipeline", "path", "message"), INCONSISTENT)
def test_inconsistent_pipeline_is_refused_at_its_path(pipeline: dict[str, Any], path: str, message: str) -> None:
    told = refused(pipeline)
    assert message in told[path]


@pytest.mark.parametrize(
    "pipeline",
    [
        torch_pipeline(promote={"at": {"batch": 32}}),
        torch_pipeline(benchmark=TWO_POINTS, promote={"at": {}}),
        torch_pipeline(inputs={"x": {"dtype": "float32", "shape": [1, 8]}}, dims={}),
        torch_pipeline(inputs={"x": {**INT64, "range": [0, 30522]}}, outputs=["logits"]),
        torch_pipeline(dims={"batch": {"min": 4, "opt": 4, "max": 4}}),
        onnx_pipeline(benchmark={"at": [{"unknown": 3}]}, promote={"at": {"unknown": 3}}),
        onnx_pipeline(dims=BATCH, benchmark=TWO_POINTS),
        onnx_pipeline(data=METRIC, gates={"metric_drop": 0}, promote={"by": "metric"}),
        onnx_pipeline(schedule={"cron": "0 3 * * *", "timezone": "Europe/Paris"}, on_retrain=True),
        *(
            onnx_pipeline(schedule={"cron": f"*/5 0 {days}"})
            for days in ("29 2 *", "30 2 mon", "31 */2 *", "30/5 4,5 *")
        ),
        onnx_pipeline(
            data=RANGES,
            precisions=["fp32", OWN],
            engines=[
                {"runtime": "onnxruntime", "precisions": ["fp32"]},
                {"runtime": "tensorrt", "options": {"refittable": True, "strip_plan": True, "timeout": "20m"}},
            ],
        ),
        onnx_pipeline(engines=[{"runtime": "onnxruntime", "options": {"threads": 2, "device": "cuda"}}]),
    ],
)
def test_consistent_pipeline_is_taken(pipeline: dict[str, Any]) -> None:
    PipelineConfig.model_validate(pipeline)


@pytest.mark.parametrize("key", ["half", "fp32", "fp16", "slow/half", "onnxruntime/fp32"])
def test_parity_gate_is_named_by_precision_kind_or_result(key: str) -> None:
    gates = {"parity": {key: {"cosine": 0.99}}}
    engines = [{"runtime": "onnxruntime"}, {"runtime": "reference", "name": "slow", "precisions": ["half"]}]
    written = onnx_pipeline(gates=gates, engines=engines, precisions=["fp32", {"fp16": {"name": "half"}}])
    assert list(PipelineConfig.model_validate(written).gates.parity) == [key]


@pytest.mark.parametrize("key", ["typed", "slow/fp32", "slow", "slow/half/x", "other/half", "half/slow"])
def test_parity_gate_that_names_nothing_is_refused(key: str) -> None:
    gates = {"parity": {key: {"cosine": 0.99}}}
    engines = [{"runtime": "onnxruntime"}, {"runtime": "reference", "name": "slow", "precisions": ["half"]}]
    written = onnx_pipeline(gates=gates, engines=engines, precisions=["fp32", {"fp16": {"name": "half"}}])
    assert "names no precision, kind or result" in refused(written)[f"gates.parity.{key}"]


@pytest.mark.parametrize("key", ["fp32", "typed", "onnxruntime/fp16", "reference/typed"])
def test_parity_gate_may_name_a_default(key: str) -> None:
    PipelineConfig.model_validate(onnx_pipeline(gates={"parity": {key: {"rel_l2": 1e-3}}}))


def test_point_is_completed_by_the_opt_of_each_dim() -> None:
    dims = {"batch": DimRange(min=1, opt=8, max=16), "time": DimRange(min=1, opt=128, max=512)}
    assert complete({"batch": 1}, dims) == {"batch": 1, "time": 128}
