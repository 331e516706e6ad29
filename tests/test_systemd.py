"""The units of docs/systemd are what systemd takes."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.projects import ROOT

UNITS = sorted((ROOT / "docs" / "systemd").glob("*.service"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd-analyze here")
def test_systemd_has_nothing_to_say_against_them(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8")
        for program in ("trtflow", "python"):  # what is not installed there, it would name
            text = text.replace(f"/opt/trtflow/.venv/bin/{program}", sys.executable)
        (tmp_path / unit.name).write_text(text, encoding="utf-8")
    verified = subprocess.run(
        ["systemd-analyze", "verify", *(tmp_path / unit.name for unit in UNITS)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert UNITS
    assert (verified.returncode, verified.stderr) == (0, "")
