"""Every typed graph of the digits example goes through the real TensorRT-RTX parser and builder."""

import importlib.util
import json
from pathlib import Path

import pytest

from benchmarks import rtx
from tasks.core.environment import gpu
from tests.projects import Project

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra tensorrt-rtx is not installed"
    ),
    pytest.mark.skipif(gpu() is not None, reason="there is a GPU here: the engines run"),
]


def test_each_is_built_or_refused_with_a_reason(tmp_path: Path) -> None:
    output = tmp_path / "rtx.json"
    rtx.main(["digits", "--output", str(output)], lambda path: Project(path.parent).run("run", "--json").stdout)
    graphs = {line["precision"]: line for line in json.loads(output.read_text())["graphs"]}
    assert set(graphs) == set(rtx.KINDS)
    for line in graphs.values():
        assert line["status"] == "built", line
        assert line["size_bytes"] > 0
