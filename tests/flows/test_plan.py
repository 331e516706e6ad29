"""What a plan says of a project that was never run, one that is up to date, and one in which something changed."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml

from tests.commands import TINY, Call, tree, write_checkpoint
from tests.projects import Project, linear

STEPS = [
    "inspect",
    "data",
    "export",
    "fold",
    "judge exported",
    "judge folded",
    "facts",
    "quantize fp32",
    "judge fp32",
    "build onnxruntime/fp32",
    "parity onnxruntime/fp32",
    "range onnxruntime/fp32",
    "build reference/fp32",
    "parity reference/fp32",
    "range reference/fp32",
    "benchmark",
    "promote",
]
WAITS = "what it starts from is made first"


def plan(project: Project, call: Call, name: str = "tiny") -> dict[str, dict[str, Any]]:
    said = call(project, "plan", name, "--json")
    assert said.code == 0, said.err
    (found,) = said.json["plans"]
    assert found["pipeline"] == name
    assert all(set(step) == {"step", "subject", "state", "reason", "key"} for step in found["steps"])
    return {f"{step['step']} {step['subject']}".rstrip(): step for step in found["steps"]}


def artifacts(project: Project) -> dict[str, int]:
    return {name: size for name, size in tree(project.store).items() if not name.startswith(".sources")}


def first_to_run(project: Project, call: Call) -> tuple[str, str]:
    return next((name, step["reason"]) for name, step in plan(project, call).items() if step["state"] == "run")


def test_nothing_is_cached_before_the_first_run_and_nothing_is_written(
    new: Project, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Digests of files that were not just written are remembered beside the store: as if the model were one.
    monkeypatch.setattr("tasks.core.digests._SETTLED_NS", -(10**12))
    before = tree(new.folder)
    steps = plan(new, call)
    assert list(steps) == STEPS
    assert {step["state"] for step in steps.values()} == {"run"}
    assert {step["key"] for step in steps.values()} == {None}
    assert steps.pop("inspect")["reason"] == "never made"
    assert steps.pop("promote")["reason"] == "always runs"
    assert {step["reason"] for step in steps.values()} == {WAITS}
    assert tree(new.folder) == before


def test_where_nothing_changed_only_the_promotion_runs(once: Project, call: Call) -> None:
    before = artifacts(once)
    steps = plan(once, call)
    assert list(steps) == STEPS
    promotion = steps.pop("promote")
    assert (promotion["state"], promotion["reason"]) == ("run", "always runs")
    assert {step["state"] for step in steps.values()} == {"cached"}
    assert all(len(step["key"]) == 64 for step in steps.values())
    assert artifacts(once) == before


def test_a_plan_for_people_has_a_line_for_each_step(once: Project, call: Call) -> None:
    lines = call(once, "plan", "tiny").out.splitlines()
    assert lines[0] == "tiny: 17 steps, 16 cached, 1 to run"
    assert lines[1] == "  cached  inspect"
    assert lines[-1].split() == ["run", "promote", "always", "runs"]
    assert not [line for line in lines if line != line.rstrip()]


def test_a_changed_model_is_named(done: Project, call: Call) -> None:
    model = linear("batch")
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.ones((4, 3), np.float32), "w"))
    onnx.save(model, done.folder / "linear.onnx")
    steps = plan(done, call)
    assert (steps["inspect"]["state"], steps["inspect"]["reason"]) == ("run", "linear.onnx changed")
    assert steps["benchmark"]["reason"] == WAITS


def test_another_model_is_named_beside_the_one_before(done: Project, call: Call) -> None:
    (done.folder / "linear.onnx").rename(done.folder / "new.onnx")
    done.write(tiny={**TINY, "model": {"onnx": "new.onnx"}})
    assert first_to_run(done, call) == ("inspect", "new.onnx is used in place of linear.onnx")


def test_a_changed_package_is_named_with_both_versions(
    done: Project, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = tmp_path / "site" / "onnx_graphsurgeon-99.0.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: onnx-graphsurgeon\nVersion: 99.0\n")
    monkeypatch.syspath_prepend(str(installed.parent))
    step, reason = first_to_run(done, call)
    assert step == "fold"
    assert reason.startswith("onnx-graphsurgeon 0.")
    assert reason.endswith(" is now 99.0")


@pytest.mark.parametrize(
    ("change", "step", "reason"),
    [
        ({"benchmark": {"seconds": 0.5, "baselines": False}}, "benchmark", "seconds 0.02 is now 0.5"),
        ({"dims": {"batch": {"min": 1, "opt": 3, "max": 4}}}, "data", "signature.dims.batch.opt 2 is now 3"),
        ({"fold": {"with": "polygraphy"}}, "fold", "tool graphsurgeon is now polygraphy"),
    ],
)
def test_a_changed_option_is_named(
    done: Project, call: Call, change: dict[str, object], step: str, reason: str
) -> None:
    done.write(tiny={**TINY, **change})
    assert first_to_run(done, call) == (step, reason)


def test_gates_and_the_objective_are_no_reason_to_run_anything(done: Project, call: Call) -> None:
    done.write(tiny={**TINY, "gates": {"parity": {"fp32": {"cosine": 0.5}}}, "promote": {"by": "size_bytes"}})
    assert first_to_run(done, call)[0] == "promote"


def test_a_new_engine_is_all_that_is_built(done: Project, call: Call) -> None:
    config = yaml.safe_load((done.folder / "pipelines.yaml").read_text())["pipelines"]["tiny"]
    done.write(tiny={**config, "engines": [*config["engines"], {"runtime": "reference", "name": "second"}]})
    to_run = [name for name, step in plan(done, call).items() if step["state"] == "run"]
    # The reference's engine is the same whatever it is called: what it computes was judged already.
    assert to_run == ["benchmark", "promote"]


def test_a_truncated_artifact_is_to_be_made_again(done: Project, call: Call) -> None:
    engine = next((done.store / "tiny" / "build").glob("*/model.engine"))
    engine.write_bytes(engine.read_bytes()[:10])
    step, reason = first_to_run(done, call)
    assert step.startswith("build ")
    assert reason.startswith("model.engine has 10 of ")


def test_what_was_removed_is_to_be_made_again(done: Project, call: Call) -> None:
    (artifact,) = (done.store / "tiny" / "benchmark").iterdir()
    artifact.rename(done.folder / "elsewhere")
    assert first_to_run(done, call) == ("benchmark", "never made")


def test_a_pipeline_that_fails_its_gate_has_nothing_left_to_measure(once: Project, call: Call) -> None:
    to_run = [name for name, step in plan(once, call, "bad").items() if step["state"] == "run"]
    assert to_run == ["benchmark", "promote"]


def test_a_changed_checkpoint_is_named_and_the_data_stays(torch_done: Project, call: Call) -> None:
    assert {step["state"] for step in plan(torch_done, call, "net").values()} == {"cached", "run"}
    write_checkpoint(torch_done.folder, 2.0)
    steps = plan(torch_done, call, "net")
    assert steps["data"]["state"] == "cached"
    assert (steps["export"]["state"], steps["export"]["reason"]) == ("run", "weights.safetensors changed")
    assert steps["fold"]["reason"] == WAITS


@pytest.mark.parametrize(("file", "step"), [("net.py", "export"), ("samples.py", "data")])
def test_changed_code_is_named(torch_done: Project, call: Call, file: str, step: str) -> None:
    (torch_done.folder / file).write_text((torch_done.folder / file).read_text() + "\n")
    found = plan(torch_done, call, "net")[step]
    assert (found["state"], found["reason"]) == ("run", f"{file} changed")


def test_what_only_the_model_shows_to_be_wrong_is_placed_in_the_yaml_and_keeps_no_other_from_its_plan(
    new: Project, call: Call
) -> None:
    free = {**TINY, "dims": {"batch": {"min": 1, "opt": 2, "max": 4}, "length": {"min": 1, "opt": 2, "max": 4}}}
    new.write(free=free, tiny=TINY)
    assert call(new, "run", "free").code == 2  # looks at the model
    said = call(new, "plan")
    assert said.code == 2
    assert f"tiny: {len(STEPS)} steps" in said.out
    assert "pipelines.yaml:" in said.err
    assert "length" in said.err
    error = call(new, "plan", "--json").json["error"]
    assert error["path"].startswith("pipelines.free.dims")
    assert error["line"]
