"""The request that made an artifact, run again: every file comes out as it was, byte for byte."""

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.commands.polygraphy_line import polygraphy_line
from tasks.core.tensors import load_batches, save_batches
from tasks.repro import KeptRequest, Places, read_request
from tasks.runtimes.base import read_card
from tests.commands import Call
from tests.projects import Project

pytestmark = pytest.mark.slow


def artifact(project: Project, pipeline: str, step: str, *, holding: str = "report.json") -> str:
    """The first artifact of a step that holds a file."""
    folders = sorted(path.parent for path in (project.store / pipeline / step).glob(f"[!.]*/{holding}"))
    return str(folders[0].relative_to(project.store))


def same(project: Project, call: Call, name: str) -> set[str]:
    said = call(project, "repro", name, "--json")
    assert set(said.json) == {"artifact", "files"}
    assert said.json["artifact"] == name
    assert set(said.json["files"].values()) == {"identical"}, said
    assert said.code == 0
    return set(said.json["files"])


@pytest.mark.parametrize(
    ("step", "files"),
    [
        ("export", {"model.onnx", "golden_outputs.safetensors", "range.json", "range_outputs.safetensors"}),
        ("fold", {"model.onnx"}),
        ("quantize", {"model.onnx"}),
        ("judge", {"outputs.safetensors"}),
        ("build", {"model.engine", "card.json", "range_outputs.safetensors"}),
        ("parity", {"outputs.safetensors", "inputs.json", "outputs.json"}),
    ],
)
def test_what_an_onnx_source_gave_comes_out_again(once: Project, call: Call, step: str, files: set[str]) -> None:
    assert same(once, call, artifact(once, "tiny", step)) == files


@pytest.mark.parametrize(
    ("step", "files"),
    [
        ("data", {"golden.safetensors", "evaluation.safetensors", "targets.safetensors"}),
        (
            "export",
            {
                *("model.onnx", "golden_outputs.safetensors", "evaluation_outputs.safetensors"),
                *("range.json", "range_outputs.safetensors"),
            },
        ),
    ],
)
def test_what_a_torch_source_gave_comes_out_again(torch_once: Project, call: Call, step: str, files: set[str]) -> None:
    assert same(torch_once, call, artifact(torch_once, "net", step, holding=min(files))) == files


def test_a_store_that_was_moved_still_knows_how(once: Project, call: Call, tmp_path: Path) -> None:
    moved = Project(tmp_path / "elsewhere")
    shutil.copytree(once.folder, moved.folder, dirs_exist_ok=True)
    assert same(moved, call, artifact(moved, "tiny", "judge")) == {"outputs.safetensors"}


def test_a_file_that_comes_out_different_is_named(done: Project, call: Call) -> None:
    (golden,) = (done.store / "tiny" / "data").glob("[!.]*/golden.safetensors")
    save_batches(golden, [{"x": 2 * batch["x"]} for batch in load_batches(golden)])
    said = call(done, "repro", artifact(done, "tiny", "judge"))
    assert (said.code, said.out) == (1, "different  outputs.safetensors\n")


def test_a_measurement_cannot_be_had_again(once: Project, call: Call) -> None:
    said = call(once, "repro", artifact(once, "tiny", "benchmark"))
    assert (said.code, said.out) == (2, "")
    assert "benchmark keeps no request" in said.err


def test_the_polygraphy_line_runs_and_agrees(done: Project, call: Call) -> None:
    line = call(done, "repro", artifact(done, "tiny", "parity"), "--polygraphy").out
    assert line.startswith("polygraphy run ")
    name, *arguments = shlex.split(line)
    command = [str(Path(sys.executable).with_name(name)), *arguments]
    judged = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert "Pass Rate: 100.00%" in judged.stdout


def test_where_polygraphy_has_no_equal_this_is_said(once: Project, call: Call) -> None:
    said = call(once, "repro", artifact(once, "tiny", "data"), "--polygraphy")
    assert (said.code, said.out) == (2, "")
    assert "Polygraphy has nothing that does what data does" in said.err


def _built(once: Project, runtime: str, version: str, options: dict[str, object]) -> tuple[Path, KeptRequest, Places]:
    """A build of the ONNX engine, told as if that runtime had made it: what the line reads is the request and card."""
    folder = once.store / artifact(once, "tiny", "build", holding="card.json")
    kept, card = read_request(folder), read_card(folder / "card.json")
    other = folder.with_name("other")
    shutil.copytree(folder, other, dirs_exist_ok=True)
    made = card.model_copy(update={"runtime": runtime, "runtime_version": version, "precision": "int8"})
    (other / "card.json").write_text(made.model_dump_json())
    (call,) = kept.calls
    told = call.model_copy(update={"request": call.request | {"runtime": runtime, "options": options}})
    places = Places(store=once.store, project=once.folder, out=other)
    return other, kept.model_copy(update={"calls": (told,)}), places


@pytest.mark.parametrize(
    ("made_by", "holds", "without"),
    [
        (("tensorrt", "8.6.1"), "--trt --int8 --trt-min-shapes 'x:[1,4]'", "--strongly-typed"),
        (("tensorrt", "10.16.1.11"), "--trt --strongly-typed --trt-min-shapes", "--int8"),
        (("tensorrt", "11.4.0.106"), "--trt --trt-min-shapes", "--strongly-typed"),
        (("tensorrt-rtx", "1.7.1.116"), "--trt --trt-min-shapes", "--int8"),
    ],
)
def test_tensorrt_is_built_by_polygraphy_with_the_same_flags(
    done: Project, tmp_path: Path, made_by: tuple[str, str], holds: str, without: str
) -> None:
    options: dict[str, object] = {
        "tf32": True,
        "refittable": True,
        "hardware_compatible": True,
        "optimization_level": 2,
        "workspace_bytes": 1 << 20,
        "plugins": ["/opt/plugin.so"],
    }
    runtime, version = made_by
    line = polygraphy_line(*_built(done, runtime, version, options))
    assert holds in line
    assert without not in line
    assert line.startswith("POLYGRAPHY_USE_TENSORRT_RTX=1 ") == (runtime == "tensorrt-rtx")
    words = shlex.split(line)[runtime == "tensorrt-rtx" :]
    script = tmp_path / "script.py"  # Polygraphy takes every word of it, and writes what it would do
    command = [str(Path(sys.executable).with_name(words[0])), *words[1:], "--gen-script", str(script)]
    told = subprocess.run(command, capture_output=True, check=False, text=True, timeout=60)
    assert told.returncode == 0, told.stdout + told.stderr
    assert "workspace" in script.read_text().lower()


def test_what_a_plan_computed_is_judged_by_running_the_plan(done: Project) -> None:
    folder = done.store / artifact(done, "tiny", "parity")
    kept = read_request(folder)
    places = Places(store=done.store, project=done.folder, out=folder)
    card = Path(str(places.show(kept.calls[0].request)["card"]))
    made = read_card(card).model_copy(update={"runtime": "tensorrt", "runtime_version": "8.6.1"})
    card.unlink()
    card.write_text(made.model_dump_json())
    line = polygraphy_line(folder, kept, places)
    assert "--model-type engine --trt --load-inputs" in line
