"""Files are replaced whole, and what a killed writer leaves can be told from what a living one works on."""

import errno
import json
import os
import threading
from pathlib import Path

import pytest

from tasks.core.errors import StepError, StoreError
from tasks.core.files import copy_file, link_or_copy, remove_abandoned, remove_tree, store_errors, write_atomically
from tests.programs import Program

HOLD_UNFINISHED = """
import sys
from pathlib import Path
from tasks.core.files import _open_locked
with _open_locked(Path(sys.argv[1])):
    print("open", flush=True)
    sys.stdin.read()
"""
WRITE_TOO_MUCH = """
import resource, sys
from pathlib import Path
from tasks.core.files import write_atomically
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_atomically(Path(sys.argv[1]), "x" * 5000)
except OSError as error:
    print(error.errno)
"""


def test_file_is_replaced_and_nothing_hidden_stays(tmp_path: Path) -> None:
    path = tmp_path / "made" / "file.json"
    write_atomically(path, "one")
    write_atomically(path, "zwei äöü")
    assert path.read_text(encoding="utf-8") == "zwei äöü"
    assert list(path.parent.iterdir()) == [path]


def test_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text("old")
    assert Program(WRITE_TOO_MUCH, path).end() == str(errno.EFBIG)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    texts = [json.dumps([letter] * 5000) for letter in "ab"]
    write_atomically(path, texts[0])

    def write() -> None:
        for index in range(40):
            write_atomically(path, texts[index % 2])

    writers = [threading.Thread(target=write) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_abandoned_file_is_removed_and_one_at_work_is_not(tmp_path: Path) -> None:
    partial = tmp_path / ".file.json.0.partial"
    writer = Program(HOLD_UNFINISHED, partial)
    assert writer.said() == "open"
    remove_abandoned(partial)
    assert partial.exists()
    writer.kill()
    assert partial.exists()
    remove_abandoned(partial)
    assert not partial.exists()
    remove_abandoned(partial)  # gone already


def test_writer_whose_new_file_is_taken_for_abandoned_starts_over(tmp_path: Path) -> None:
    done = threading.Event()

    def clear_away() -> None:
        while not done.is_set():
            for partial in tmp_path.glob(".*.partial"):
                remove_abandoned(partial)

    sweepers = [threading.Thread(target=clear_away) for _ in range(2)]
    for sweeper in sweepers:
        sweeper.start()
    try:
        for index in range(200):
            write_atomically(tmp_path / "file.json", str(index))
            assert (tmp_path / "file.json").read_text() == str(index)
    finally:
        done.set()
        for sweeper in sweepers:
            sweeper.join()


@pytest.mark.parametrize(
    ("number", "cure"),
    [
        (errno.ENOSPC, "trtflow gc"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "--store"),
        (errno.EACCES, "writable"),
        (errno.EIO, "file system"),
    ],
)
def test_disk_error_says_what_to_do(tmp_path: Path, number: int, cure: str) -> None:
    with pytest.raises(StoreError) as caught, store_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path) in caught.value.message
    assert os.strerror(number) in caught.value.message
    assert cure in caught.value.cure


def test_unchanged_data_is_linked_not_copied(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"w" * 100)
    link_or_copy(tmp_path / "weights", tmp_path / "again")
    assert (tmp_path / "weights").samefile(tmp_path / "again")


def test_data_of_another_file_system_is_copied(tmp_path: Path) -> None:
    memory = Path("/dev/shm")  # noqa: S108 - a file system of its own
    if memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system here")
    other = memory / f"trtflow-test-{os.getpid()}"
    other.write_bytes(b"w" * 100)
    try:
        link_or_copy(other, tmp_path / "copy")
    finally:
        other.unlink()
    assert (tmp_path / "copy").read_bytes() == b"w" * 100


def test_removed_folder_is_gone_at_once_and_may_be_missing(tmp_path: Path) -> None:
    (tmp_path / "folder/inner").mkdir(parents=True)
    remove_tree(tmp_path / "folder")
    remove_tree(tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("refused", [None, errno.EXDEV, errno.ENOSYS])
def test_a_copy_is_whole_whatever_the_kernel_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: int | None
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(refused, "not here")

    if refused is not None:
        monkeypatch.setattr(os, "copy_file_range", refuse)
    (tmp_path / "source").write_bytes(os.urandom(100_000))
    copy_file(tmp_path / "source", tmp_path / "target", threading.Event())
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()
    assert (tmp_path / "source").stat().st_nlink == 1


def test_a_copy_can_be_stopped_and_a_full_disk_is_no_other_way_to_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    (tmp_path / "source").write_bytes(b"1")
    stop = threading.Event()
    stop.set()
    with pytest.raises(StepError, match="stopped while it copied source"):
        copy_file(tmp_path / "source", tmp_path / "target", stop)
    monkeypatch.setattr(os, "copy_file_range", full)
    with pytest.raises(OSError, match="no space"):
        copy_file(tmp_path / "source", tmp_path / "target", threading.Event())
