"""A damaged file of an artifact is found, by a stat where that is enough, and the reason names the file."""

import json
import os
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.core.digests import sha256_file
from tasks.core.report import FileRecord
from tasks.core.verified import Verified, link, sha256_once

SIDECAR = ".verified"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give an artifact of two files that was verified when it was made."""
    made = tmp_path / "store/made"
    made.mkdir(parents=True)
    (made / "model.onnx").write_bytes(b"m" * 100)
    (made / "weights").write_bytes(b"w" * 200)
    (made / "report.json").write_text('{"status": "done"}')
    Verified(tmp_path / "store", hash_all=False).remember(made, records(made))
    return made


def records(folder: Path) -> list[FileRecord]:
    files = [folder / name for name in ("model.onnx", "weights")]
    return [FileRecord(name=path.name, bytes=path.stat().st_size, sha256=sha256_file(path)) for path in files]


def problem(folder: Path, known: list[FileRecord], *, hash_all: bool = False) -> str | None:
    return Verified(folder.parent, hash_all=hash_all).first_problem(folder, known)


def edit_in_place(path: Path) -> None:
    """Change a byte, and put the modification time back."""
    status = path.stat()
    with path.open("r+b") as stream:
        stream.write(b"?")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b"w" * 150), "weights has 150 of 200 bytes"),
        (lambda path: path.write_bytes(b""), "weights has 0 of 200 bytes"),
        (lambda path: path.write_bytes(b"w" * 201), "weights has 201 of 200 bytes"),
        (lambda path: path.write_bytes(b"W" * 200), "weights was edited: its sha256 is not the reported one"),
        (lambda path: path.unlink(), "weights is missing"),
        (lambda path: (path.unlink(), path.mkdir()), "weights"),
    ],
)
def test_damaged_file_is_named(folder: Path, damage: Callable[[Path], object], words: str) -> None:
    known = records(folder)
    assert problem(folder, known) is None
    damage(folder / "weights")
    found = problem(folder, known)
    assert found is not None
    assert found.startswith(words)


def test_edit_whose_time_was_put_back_is_found_when_everything_is_hashed(folder: Path) -> None:
    known = records(folder)
    assert problem(folder, known, hash_all=True) is None  # in the same process: it must not trust what it read before
    edit_in_place(folder / "weights")
    assert problem(folder, known) is None
    assert problem(folder, known, hash_all=True) == "weights was edited: its sha256 is not the reported one"


def test_same_bytes_written_again_are_intact(folder: Path) -> None:
    known = records(folder)
    content = (folder / "weights").read_bytes()
    (folder / "weights").unlink()
    (folder / "weights").write_bytes(content)
    assert problem(folder, known) is None


def test_copy_is_intact_and_hashed_once(folder: Path) -> None:
    copy = folder.parent / "copy"
    shutil.copytree(folder, copy)
    known = records(folder)
    noted = (copy / SIDECAR).read_text()
    assert problem(copy, known) is None
    assert (copy / SIDECAR).read_text() != noted  # now it notes the inodes of the copy: the next look is a stat
    edit_in_place(copy / "weights")
    assert problem(copy, known) is None


def test_without_notes_files_are_hashed_and_noted(folder: Path) -> None:
    known = records(folder)
    (folder / SIDECAR).unlink()
    assert problem(folder, known) is None
    assert (folder / SIDECAR).exists()
    (folder / SIDECAR).unlink()
    edit_in_place(folder / "weights")
    assert problem(folder, known) == "weights was edited: its sha256 is not the reported one"


@pytest.mark.parametrize("garbage", [b"", b"{", b"5", b"[]", b"\xff", b'{"weights": 5, "report.json": null}'])
def test_garbled_notes_are_none(folder: Path, garbage: bytes) -> None:
    known = records(folder)
    (folder / SIDECAR).write_bytes(garbage)
    assert problem(folder, known) is None
    assert set(json.loads((folder / SIDECAR).read_bytes())) == {"model.onnx", "weights", "report.json"}


def test_edited_report_is_found_also_when_its_time_was_put_back(folder: Path) -> None:
    known = records(folder)
    edit_in_place(folder / "report.json")
    assert problem(folder, known) == "report.json was edited"


def test_report_with_another_time_is_intact(folder: Path) -> None:
    os.utime(folder / "report.json", ns=(1, 1))
    assert problem(folder, records(folder)) is None


def test_a_link_is_known_by_the_digest_of_its_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (found,) = (record for record in records(folder) if record.name == "weights")
    assert sha256_once(folder / "weights") == found.sha256
    link(folder / "weights", folder / "second")
    link(folder / "second", folder / "third")
    monkeypatch.setattr("tasks.core.verified.sha256_file", _fail)
    assert {sha256_once(folder / name) for name in ("weights", "second", "third")} == {found.sha256}


def test_an_edit_is_seen_through_every_name(folder: Path) -> None:
    before = sha256_once(folder / "weights")
    link(folder / "weights", folder / "second")
    edit_in_place(folder / "second")
    assert sha256_once(folder / "weights") == sha256_once(folder / "second") != before


def test_a_file_is_read_by_one_of_the_threads_that_ask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []

    def slow(path: Path) -> str:
        read.append(path)
        time.sleep(0.05)
        return sha256_file(path)

    monkeypatch.setattr("tasks.core.verified.sha256_file", slow)
    (folder / "large").write_bytes(os.urandom(1000))
    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(sha256_once, [folder / "large"] * 8))) == 1
    assert read == [folder / "large"]


def _fail(path: Path) -> str:
    raise AssertionError(f"{path} was hashed again")
