"""What another Python has is read from its folders, and only asked where they do not tell."""

import sys
from pathlib import Path

import pytest

from tasks.core.environment import version_of
from tasks.core.installed import versions_in


def environment(folder: Path, *, config: str = "version = 3.11.7\n") -> Path:
    """A virtual environment whose Python would leave a file if it was started."""
    packages = folder / "lib" / "python3.11" / "site-packages"
    packages.mkdir(parents=True)
    (packages / "Tensorrt_Lean_cu13-10.16.1.11.dist-info").mkdir()
    (folder / "pyvenv.cfg").write_text(config)
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.write_text(f"#!/bin/sh\necho {folder}/elsewhere\ntouch {folder}/started\n")
    python.chmod(0o755)
    return python


@pytest.fixture(autouse=True)
def _no_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONPATH", raising=False)


def test_an_environment_is_read_without_starting_its_python(tmp_path: Path) -> None:
    python = environment(tmp_path)
    wanted = ("tensorrt-lean-cu13", "pycuda")
    assert versions_in(str(python), wanted) == {"tensorrt-lean-cu13": "10.16.1.11"}
    assert not (tmp_path / "started").exists()
    packages = tmp_path / "lib/python3.11/site-packages"
    (packages / "Tensorrt_Lean_cu13-10.16.1.11.dist-info").rename(packages / "tensorrt_lean_cu13-11.4.dist-info")
    assert versions_in(str(python), wanted) == {"tensorrt-lean-cu13": "11.4"}


def test_what_a_pth_file_links_is_found_behind_what_is_installed(tmp_path: Path) -> None:
    python = environment(tmp_path)
    other = tmp_path / "other"
    for name in ("pycuda-2026.1.dist-info", "tensorrt_lean_cu13-1.0.dist-info"):
        (other / name).mkdir(parents=True)
    (tmp_path / "lib/python3.11/site-packages/other.pth").write_text(f"import os\n# a comment\n{other}\n")
    found = versions_in(str(python), ("tensorrt-lean-cu13", "pycuda"))
    assert found == {"tensorrt-lean-cu13": "10.16.1.11", "pycuda": "2026.1"}


def test_one_that_sees_the_system_packages_is_asked(tmp_path: Path) -> None:
    python = environment(tmp_path, config="version = 3.11.7\ninclude-system-site-packages = true\n")
    (tmp_path / "elsewhere" / "pycuda-2025.1.dist-info").mkdir(parents=True)
    assert versions_in(str(python), ("pycuda",)) == {"pycuda": "2025.1"}
    assert (tmp_path / "started").exists()


def test_a_python_that_cannot_be_started_has_nothing(tmp_path: Path) -> None:
    assert versions_in(str(tmp_path / "python"), ("pycuda",)) == {}


def test_of_this_python_the_same_is_found_as_from_inside() -> None:
    wanted = ("numpy", "onnx", "pytest", "nothing-of-this-name")
    inside = {name: version for name in wanted if (version := version_of(name))}
    assert versions_in(sys.executable, wanted) == inside
