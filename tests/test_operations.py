"""docs/operations.md and the units beside it: what they show is valid, and what they point to is there."""

import re
import shlex
from pathlib import Path

import pytest

from flows import cli
from tasks.core.yaml_source import load_config
from tests.projects import ROOT

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
UNITS = sorted((ROOT / "docs" / "systemd").glob("*.service"))


def test_its_yaml_is_valid(tmp_path: Path) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    assert blocks
    for block in blocks:
        (tmp_path / "pipelines.yaml").write_text(block)
        load_config(tmp_path / "pipelines.yaml")


def test_its_links_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", PAGE):
        assert (ROOT / "docs" / link).exists(), link


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: str(unit.stem))
def test_a_unit_starts_a_command_that_there_is(unit: Path) -> None:
    found = re.search(r"^ExecStart=(.*)$", unit.read_text(), re.MULTILINE)
    assert found is not None
    program, *arguments = shlex.split(found[1])
    if program.endswith("/trtflow"):
        parsed = cli._parser().parse_args(arguments)
        assert parsed.data == "/srv/trtflow/.trtflow"
    else:
        assert arguments[:2] == ["-m", "flows.server_process"]
