"""Versions of what is installed here, for keys."""

import sys
from pathlib import Path

import pytest

from tasks.core.environment import version_said_by, versions_of
from tasks.runtimes.interpreters import own


def test_a_module_that_no_distribution_brought_says_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "copied").mkdir()
    text = 'import copied.missing\n\n__version__ = "8.6.1"\n'  # importing it would fail
    (tmp_path / "copied" / "__init__.py").write_text(text)
    (tmp_path / "silent.py").write_text("VERSION = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert version_said_by("copied") == "8.6.1"
    assert version_said_by("silent") is None
    assert version_said_by("nowhere_to_be_found") is None
    assert "copied" not in sys.modules


def test_an_engine_depends_on_a_tensorrt_that_was_copied_into_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if versions_of(("tensorrt", "tensorrt-bindings")):
        pytest.skip("a distribution of tensorrt is installed here")
    assert "tensorrt" not in own("tensorrt").versions()
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text('__version__ = "8.6.1"\n')
    monkeypatch.syspath_prepend(tmp_path)
    assert own("tensorrt").versions()["tensorrt"] == "8.6.1"


def test_a_distribution_says_it_where_there_is_one() -> None:
    assert own("onnxruntime").versions() == versions_of(("onnxruntime", "onnxruntime-gpu"))
