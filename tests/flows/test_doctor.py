"""What works here, and what to do about the rest."""

import os
import subprocess
import sys
import venv
from pathlib import Path

from tasks.core.environment import gpu
from tasks.runtimes.install import GENERATIONS
from tasks.runtimes.load import installed
from tests.commands import Call
from tests.projects import ROOT, Project


def test_what_works_is_told_with_its_version_and_what_it_takes(new: Project, call: Call) -> None:
    said = call(new, "doctor")
    assert (said.code, said.err) == (0, "")
    lines = {line.split()[1]: line for line in said.out.splitlines() if line.startswith(("  ok", "  --"))}
    assert {name.rstrip(":") for name in lines} == {"onnxruntime", "reference", "tensorrt", "tensorrt-rtx"}
    assert lines["onnxruntime"].startswith("  ok  onnxruntime 1.")
    assert "fp32, fp16" in lines["onnxruntime"]
    assert lines["reference"].endswith("a yardstick, never promoted")
    if "tensorrt:" in lines:
        assert lines["tensorrt:"].startswith("  --  tensorrt: tensorrt is not installed")
        assert lines["tensorrt:"].endswith("; see below")
        assert "constraints/tensorrt10.txt" in said.out
    assert not new.store.exists()


def test_as_json_every_runtime_has_the_same_fields(new: Project, call: Call) -> None:
    told = call(new, "doctor", "--json").json
    assert set(told) == {"environment", "runtimes", "interpreters"}
    assert told["interpreters"] == {}
    assert len({frozenset(runtime) for runtime in told["runtimes"]}) == 1
    assert {runtime["runtime"]: runtime["available"] for runtime in told["runtimes"]} == {
        "onnxruntime": True,
        "reference": True,
        "tensorrt": installed("tensorrt") and gpu() is not None,
        "tensorrt-rtx": installed("tensorrt-rtx"),
    }


def test_the_interpreters_of_the_yaml_are_probed_each_by_its_python(new: Project, call: Call) -> None:
    venv.create(new.folder / "empty", with_pip=False, symlinks=True)
    text = (new.folder / "pipelines.yaml").read_text()
    added = "interpreters: {here: {python: PYTHON}, empty: {python: empty/bin/python}, gone: {python: gone/python}}\n"
    (new.folder / "pipelines.yaml").write_text(text + added.replace("PYTHON", sys.executable))
    said = call(new, "doctor")
    here, empty, gone = said.out.partition("interpreters of ")[2].splitlines()[1:4]
    assert here.startswith((f"  --  here ({sys.executable}): tensorrt: ", f"  ok  here ({sys.executable}): tensorrt "))
    assert empty.startswith(f"  --  empty ({new.folder}/empty/bin/python): tensorrt: ")
    assert "cannot run workers: ModuleNotFoundError: No module named 'pydantic'" in empty
    assert gone.startswith(f"  --  gone ({new.folder}/gone/python): tensorrt: the interpreter ")
    assert set(call(new, "doctor", "--json").json["interpreters"]) == {"here", "empty", "gone"}


def test_a_yaml_that_cannot_be_read_does_not_keep_the_doctor_away(new: Project, call: Call) -> None:
    (new.folder / "pipelines.yaml").write_text("version: 2\n")
    said = call(new, "doctor")
    assert said.code == 0
    assert said.err.startswith("note: interpreters of the YAML were not looked at: ")


def test_every_line_of_installation_is_told(new: Project, call: Call) -> None:
    said = call(new, "doctor")
    if "  --  " in said.out:
        for generation in GENERATIONS:
            assert f"constraints/{generation.line.partition('constraints/')[2].split('.txt')[0]}.txt" in said.out


def test_where_nothing_works_that_is_deployed_the_reason_and_the_cure_are_told(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text('raise ImportError("libonnx.so: cannot open shared object file")\n')
    ended = subprocess.run(
        [sys.executable, "-m", "flows.cli", "doctor"],
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    (line,) = (line for line in ended.stdout.splitlines() if "onnxruntime:" in line)
    assert line.startswith("  --  onnxruntime: ")
    assert "libonnx.so" in line
    assert "pip install onnxruntime" in line
    assert "  ok  reference" in ended.stdout
    assert ended.stderr == ""
