"""What works here, and what to do about the rest."""

import os
import subprocess
import sys
from pathlib import Path

from tasks.core.environment import gpu
from tasks.runtimes.load import installed
from tests.commands import Call
from tests.projects import ROOT, Project


def test_what_works_is_told_with_its_version_and_what_it_takes(new: Project, call: Call) -> None:
    said = call(new, "doctor")
    assert (said.code, said.err) == (0, "")
    lines = {line.split()[1]: line for line in said.out.splitlines() if line.startswith("  ")}
    assert {name.rstrip(":") for name in lines} == {"onnxruntime", "reference", "tensorrt", "tensorrt-rtx"}
    assert lines["onnxruntime"].startswith("  ok  onnxruntime 1.")
    assert "fp32, fp16" in lines["onnxruntime"]
    assert lines["reference"].endswith("a yardstick, never promoted")
    if "tensorrt:" in lines:
        assert lines["tensorrt:"].startswith("  --  tensorrt: tensorrt is not installed")
        assert "constraints/tensorrt10.txt" in lines["tensorrt:"]
    assert not new.store.exists()


def test_as_json_every_runtime_has_the_same_fields(new: Project, call: Call) -> None:
    told = call(new, "doctor", "--json").json
    assert set(told) == {"environment", "runtimes"}
    assert len({frozenset(runtime) for runtime in told["runtimes"]}) == 1
    assert {runtime["runtime"]: runtime["available"] for runtime in told["runtimes"]} == {
        "onnxruntime": True,
        "reference": True,
        "tensorrt": installed("tensorrt") and gpu() is not None,
        "tensorrt-rtx": installed("tensorrt-rtx"),
    }


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
