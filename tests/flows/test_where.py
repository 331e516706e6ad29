"""`show --where`: what it names, and what it says where there is nothing to name."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.commands import SOURCE, Call, fresh
from tests.projects import Project


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """`tiny` in fp32 and fp16, run once; not to be changed but by what `show --where` keeps."""
    project = fresh(tmp_path_factory.mktemp("half") / "project")
    engines = [{"runtime": "onnxruntime"}, {"runtime": "onnxruntime", "name": "second", "precisions": ["fp32"]}]
    project.write(tiny={**SOURCE, "precisions": ["fp32", "fp16"], "engines": engines})
    assert project.run("run", "--json").runs["tiny"].status == "passed"
    return project


def test_the_worst_precision_is_shown_by_default(half: Project, call: Call) -> None:
    said = call(half, "show", "tiny", "--where")
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].endswith("onnxruntime/fp16")
    costs = ["rel_l2", "cosine", "max abs"]
    titles = ["output", f"precision cost: {costs[0]}", *costs[1:], f"runtime cost: {costs[0]}", *costs[1:]]
    assert re.split(r"\s{2,}", lines[1]) == titles
    assert lines[2].split()[0] == "y"
    assert lines[3] == "no tensor is beyond rel_l2 0.01"
    assert lines[4].split() == ["tensor", "added", "rel_l2", "cosine", "operator", "node", "module"]
    assert lines[5].split()[0] == "y"
    assert "MatMul" in lines[5]
    path = Path(lines[-1].rpartition(": ")[2])
    assert [tensor["name"] for tensor in json.loads(path.read_bytes())["tensors"]] == ["y"]


def test_json_is_one_object_and_is_the_same_from_the_store(half: Project, call: Call) -> None:
    shown = call(half, "show", "tiny", "--where", "fp16", "--json").json
    assert set(shown) == {"pipeline", "run", "id", "outputs", "where", "artifact"}
    assert shown["id"] == "onnxruntime/fp16"
    outcome = half.record("tiny").outcome
    parity = next(engine.parity for engine in outcome.engines if engine.id == "onnxruntime/fp16")
    assert parity is not None
    assert shown["outputs"]["y"]["precision_cost"]["rel_l2"] == parity.precision_cost.rel_l2 > 0
    assert shown["outputs"]["y"]["runtime_cost"]["rel_l2"] == parity.runtime_cost.rel_l2
    assert shown["where"]["compared"] == 1
    assert call(half, "--json", "show", "tiny", "--where", "onnxruntime/fp16").json == shown


def test_any_result_can_be_named_by_id(half: Project, call: Call) -> None:
    shown = call(half, "show", "tiny", "--where", "second/fp32", "--json").json
    assert shown["id"] == "second/fp32"
    assert shown["where"]["first_bad"] is None
    assert shown["where"]["most_added"] == []


def test_a_name_that_is_none_is_refused_with_those_that_are(once: Project, call: Call) -> None:
    said = call(once, "show", "tiny", "--where", "fp23")
    assert said.code == 2
    assert "the last run of tiny has no result 'fp23'" in said.err
    assert "fp32" in said.err


def test_without_a_run_there_is_nothing_to_attribute(new: Project, call: Call) -> None:
    said = call(new, "show", "tiny", "--where")
    assert said.code == 1
    assert "tiny was never run" in said.err
    assert not new.store.exists()


def test_what_changed_since_the_run_is_not_computed_for_it(done: Project, call: Call) -> None:
    shutil.copy(done.folder / "cube.onnx", done.folder / "linear.onnx")
    done.write(tiny={"model": {"onnx": "linear.onnx"}})
    said = call(done, "show", "tiny", "--where")
    assert said.code == 1
    assert "the store does not hold what inspect makes of tiny" in said.err
    assert "trtflow run tiny" in said.err
    assert not (done.store / "tiny" / "where").exists()


def test_a_gated_engine_is_attributed_too(done: Project, call: Call) -> None:
    shown = call(done, "show", "bad", "--where", "--json").json
    assert shown["where"]["first_bad"] is None
    assert shown["outputs"]["y"]["precision_cost"]["rel_l2"] == 0
    assert not done.left_over()
