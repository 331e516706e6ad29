"""Digests are remembered only for files that are provably those that were hashed."""

import hashlib
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tasks.core.digests import SourceDigests, canonical, sha256_file, sha256_text

OLD = Path(os.__file__)  # a file that nobody has written for more than two seconds
SETTLED_SECONDS = 2.1


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store/.sources"


def test_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * 3_000_000)
    assert sha256_file(tmp_path / "file") == sha256(b"x" * 3_000_000)
    assert sha256_text("ä") == sha256("ä".encode())


def test_equal_values_have_one_text() -> None:
    assert canonical({"b": [1, 2.5], "a": {"y": None, "x": "ä"}}) == canonical(
        {"a": {"x": "ä", "y": None}, "b": [1, 2.5]}
    )
    assert canonical([1, 2]) != canonical([2, 1])
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical(float("nan"))


def test_file_that_has_settled_is_hashed_once(memory: Path) -> None:
    digests = SourceDigests(memory)
    assert digests.sha256(OLD) == sha256(OLD.read_bytes())
    (entry,) = memory.iterdir()
    identity, _ = json.loads(entry.read_text())
    entry.write_text(json.dumps([identity, "what was remembered"]))
    assert digests.sha256(OLD) == "what was remembered"


def test_file_that_may_still_change_within_its_tick_is_hashed_again(memory: Path, tmp_path: Path) -> None:
    file, digests = tmp_path / "weights", SourceDigests(memory)
    for content in (b"one", b"two"):
        file.write_bytes(content)
        os.utime(file, ns=(0, 0))  # also when it was given an old time
        assert digests.sha256(file) == sha256(content)
    assert not memory.exists()


def test_modification_time_that_was_put_back_deceives_nobody(memory: Path, tmp_path: Path) -> None:
    copied, touched, stayed = (tmp_path / name for name in ("copied", "touched", "stayed"))
    for file in (copied, touched, stayed, tmp_path / "other"):
        file.write_bytes(b"one" if file.name != "other" else b"two")
        os.utime(file, ns=(10**18, 10**18))
    time.sleep(SETTLED_SECONDS)
    digests = SourceDigests(memory)
    assert {digests.sha256(file) for file in (copied, touched, stayed)} == {sha256(b"one")}
    assert len(list(memory.iterdir())) == 3
    subprocess.run(["cp", "-p", tmp_path / "other", copied], check=True)
    touched.write_bytes(b"two")
    subprocess.run(["touch", "-d", "@1000000000", touched], check=True)
    assert {file.stat().st_mtime_ns for file in (copied, touched, stayed)} == {10**18}
    assert [digests.sha256(file) for file in (copied, touched)] == [sha256(b"two")] * 2
    assert digests.sha256(stayed) == sha256(b"one")


def test_link_to_another_file_is_another_file(memory: Path, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(OLD)
    digests = SourceDigests(memory)
    digests.sha256(link)
    other = Path(shutil.__file__)
    link.unlink()
    link.symlink_to(other)
    assert digests.sha256(link) == sha256(other.read_bytes())


@pytest.mark.parametrize("garbage", [b"", b"{", b"5", b"null", b"[1]", b'{"a": 1, "b": 2}', b"\xff\xfe", b'["x", "y"]'])
def test_memory_that_cannot_be_read_is_made_again(memory: Path, garbage: bytes) -> None:
    digests = SourceDigests(memory)
    digests.sha256(OLD)
    (entry,) = memory.iterdir()
    entry.write_bytes(garbage)
    assert digests.sha256(OLD) == sha256(OLD.read_bytes())
    assert json.loads(entry.read_text())[1] == sha256(OLD.read_bytes())


def test_without_a_store_nothing_is_remembered(tmp_path: Path) -> None:
    assert SourceDigests(tmp_path / "none/.sources").sha256(OLD) == sha256(OLD.read_bytes())
    assert list(tmp_path.iterdir()) == []


def test_file_that_is_not_there_is_an_error(memory: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        SourceDigests(memory).sha256(tmp_path / "none")
