"""What a pipeline builds: each precision for each engine that wants it."""

import pytest

from flows.convert import targets
from tasks.core.config import PipelineConfig

ORT = {"runtime": "onnxruntime"}
REFERENCE = {"runtime": "reference"}


def ids(*, quantized: bool = False, **sections: object) -> list[str]:
    config = PipelineConfig.model_validate({"model": {"onnx": "m.onnx"}, **sections})
    return [target.id for target in targets(config, typed=quantized)]


def test_the_smallest_pipeline_builds_fp32_and_fp16_for_what_can_be_deployed() -> None:
    assert ids() == ["onnxruntime/fp32", "onnxruntime/fp16"]


def test_a_graph_that_came_quantised_is_its_own_precision() -> None:
    assert ids(quantized=True) == ["onnxruntime/typed"]
    assert ids(quantized=True, precisions=["fp32"]) == ["onnxruntime/fp32"]


def test_the_order_is_that_of_the_yaml_engine_by_engine() -> None:
    found = ids(engines=[REFERENCE, ORT], precisions=["fp16", "fp32"])
    assert found == ["reference/fp16", "reference/fp32", "onnxruntime/fp16", "onnxruntime/fp32"]


def test_an_engine_takes_the_precisions_that_it_names_by_their_names() -> None:
    precisions = ["fp32", {"fp16": {"name": "half"}}]
    assert ids(precisions=precisions, engines=[{**ORT, "precisions": ["half"]}]) == ["onnxruntime/half"]


def test_ids_are_made_of_the_names_and_not_of_the_kinds() -> None:
    engines = [{**ORT, "name": "one"}, {**ORT, "name": "two", "options": {"threads": 1}}]
    assert ids(engines=engines, precisions=[{"fp32": {"name": "plain"}}]) == ["one/plain", "two/plain"]


@pytest.mark.parametrize(
    ("engine", "precision", "optional"),
    [(False, False, False), (True, False, True), (False, True, True), (True, True, True)],
)
def test_a_result_is_optional_where_its_engine_or_its_precision_is(
    engine: bool, precision: bool, optional: bool
) -> None:
    config = PipelineConfig.model_validate(
        {
            "model": {"onnx": "m.onnx"},
            "engines": [{**ORT, "optional": engine}],
            "precisions": [{"fp32": {"optional": precision}}],
        }
    )
    (target,) = targets(config, typed=False)
    assert target.optional is optional
