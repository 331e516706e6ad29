"""The file of what builders timed: never damaged, never lost in a race. The merging itself is the library's."""

import subprocess
import sys
from pathlib import Path

from tasks.runtimes.timing_cache import TimingCacheFile, timing_cache_file
from tests.projects import ROOT

_ADD = """
import sys
from pathlib import Path
from tasks.runtimes.timing_cache import TimingCacheFile

for number in range(20):
    line = f"{sys.argv[2]}-{number}\\n".encode()
    TimingCacheFile(Path(sys.argv[1])).merge(lambda others: others + line)
"""


def test_what_was_merged_is_read_again(tmp_path: Path) -> None:
    file = TimingCacheFile(tmp_path / ".timing" / "one.cache")
    assert file.read() == (b"", "")
    assert file.merge(lambda others: others + b"first") == (5, "")
    assert file.merge(lambda others: others + b" second") == (12, "")
    assert file.read() == (b"first second", "")
    assert [path.name for path in file.path.parent.iterdir()] == ["one.cache"]


def test_builds_that_race_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "one.cache"
    runs = [subprocess.Popen([sys.executable, "-c", _ADD, str(path), name], cwd=ROOT) for name in "abc"]
    assert [run.wait(60) for run in runs] == [0, 0, 0]
    content, note = TimingCacheFile(path).read()
    assert note == ""
    assert sorted(content.decode().split()) == sorted(f"{name}-{number}" for name in "abc" for number in range(20))


def test_a_damaged_file_is_started_afresh(tmp_path: Path) -> None:
    file = TimingCacheFile(tmp_path / "one.cache")
    file.merge(lambda _: b"x" * 1000)
    whole = file.path.read_bytes()
    for damaged in (whole[:-1], whole[:10], b"", whole[:-5] + b"hello", b"something else"):
        file.path.write_bytes(damaged)
        content, note = file.read()
        assert content == b""
        assert "damaged" in note
        assert file.merge(lambda others: others + b"new") == (3, "")


def test_one_that_outgrows_its_limit_is_dropped(tmp_path: Path) -> None:
    file = TimingCacheFile(tmp_path / "one.cache", limit_bytes=10)
    assert file.merge(lambda _: b"0123456789") == (10, "")
    size, note = file.merge(lambda others: others + b"x")
    assert (size, file.path.exists()) == (0, False)
    assert "outgrew" in note


def test_that_it_cannot_be_written_is_only_noted(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    size, note = TimingCacheFile(tmp_path / "file" / "one.cache").merge(lambda _: b"x")
    assert size == 0
    assert "not written" in note


def test_each_version_gpu_and_driver_has_its_own(tmp_path: Path) -> None:
    made_by = {"version": "8.6.1", "gpu": "H200", "driver": "580"}
    others = [{**made_by, name: "other"} for name in made_by]
    assert len({timing_cache_file(tmp_path, by).path for by in (made_by, *others)}) == 4
    assert timing_cache_file(tmp_path, made_by).path.parent == tmp_path
