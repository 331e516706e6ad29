"""What memory is left: the system's, or less where a control group allows less."""

from pathlib import Path

import pytest

from tasks.core.errors import StepError
from tasks.core.memory import available_bytes
from tasks.sources import library_input
from tasks.sources.library_input import check_memory, private_copy, weight_bytes


def meminfo(folder: Path, kilobytes: int) -> Path:
    (folder / "meminfo").write_text(f"MemTotal: 999999999 kB\nMemAvailable:   {kilobytes} kB\n")
    return folder / "meminfo"


def limit(groups: Path, *, most: str, used: int, cached: int) -> None:
    groups.mkdir(parents=True, exist_ok=True)
    (groups / "memory.max").write_text(f"{most}\n")
    (groups / "memory.current").write_text(f"{used}\n")
    (groups / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")


def test_without_a_group_it_is_what_the_system_has(tmp_path: Path) -> None:
    assert available_bytes(meminfo(tmp_path, 1000), tmp_path / "none") == 1_024_000
    limit(tmp_path / "groups", most="max", used=1, cached=1)
    assert available_bytes(meminfo(tmp_path, 1000), tmp_path / "groups") == 1_024_000


def test_a_group_may_leave_less(tmp_path: Path) -> None:
    limit(tmp_path / "groups", most="50000", used=30000, cached=4000)
    assert available_bytes(meminfo(tmp_path, 1000), tmp_path / "groups") == 24000


def test_this_host_has_some() -> None:
    assert available_bytes() > 0


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.onnx").write_bytes(b"")
    return tmp_path / "model/model.onnx"


def test_a_model_that_does_not_fit_is_refused_with_the_figures(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library_input, "weight_bytes", lambda _: 3_000_000_000)
    with pytest.raises(StepError) as refused:
        check_memory(model, "AutoCast to fp16", 1e6)
    assert "AutoCast to fp16 holds a model about 1e+06 times" in refused.value.message
    assert "for the 3.0 GB of this one" in refused.value.message
    assert "more memory" in refused.value.cure
    check_memory(model, "AutoCast to fp16", 1e-6)


def test_of_a_small_model_nothing_is_estimated(model: Path) -> None:
    assert weight_bytes(model) == 0
    check_memory(model, "AutoCast to fp16", 1e18)


def test_a_copy_is_its_own_file(model: Path, tmp_path: Path) -> None:
    (tmp_path / "second").hardlink_to(model)
    copied = private_copy(model, tmp_path / "copy")
    assert copied.stat().st_nlink == 1
    assert not copied.samefile(model)
