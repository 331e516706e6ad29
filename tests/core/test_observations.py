"""What user code depended on is compared with what is there now, and the first change is named."""

import importlib.metadata
import json
import os
import sys
from pathlib import Path

import pytest

from tasks.core.digests import SourceDigests, sha256_file, sha256_text
from tasks.core.observations import IndexEntry, Observer, append_index, listing_digest, read_index
from tasks.core.report import Observation
from tests.programs import Program

APPEND = """
import sys
from pathlib import Path
from tasks.core.observations import IndexEntry, append_index
from tasks.core.report import Observation
seen = tuple(Observation(kind="absent", name=f"{sys.argv[2]}-{index}") for index in range(200))
for _ in range(30):
    append_index(Path(sys.argv[1]), IndexEntry(key=sys.argv[2], observed=seen))
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    (folder / "data").mkdir(parents=True)
    (folder / "helper.py").write_text("SCALE = 1\n")
    (folder / "data/a.npy").touch()
    return folder


def change(project: Path, seen: Observation) -> str | None:
    return Observer(project, SourceDigests(project.parent / "store/.sources")).first_change([seen])


def helper(project: Path) -> Observation:
    return Observation(kind="file", name="helper.py", digest=sha256_file(project / "helper.py"))


def test_changed_file_is_named_and_changed_back_is_the_same(project: Path) -> None:
    seen = helper(project)
    assert change(project, seen) is None
    (project / "helper.py").write_text("SCALE = 2\n")
    assert change(project, seen) == "helper.py changed"
    (project / "helper.py").write_text("SCALE = 1\n")
    assert change(project, seen) is None


def test_file_that_is_gone_is_named(project: Path) -> None:
    seen = helper(project)
    (project / "helper.py").unlink()
    assert change(project, seen) == "helper.py is gone"
    (project / "helper.py").mkdir()
    assert change(project, seen) == "helper.py changed"


def test_file_in_a_folder_that_became_a_file_is_gone(project: Path) -> None:
    seen = Observation(kind="file", name="data/a.npy", digest=sha256_text(""))
    assert change(project, seen) is None
    (project / "data/a.npy").unlink()
    (project / "data").rmdir()
    (project / "data").touch()
    assert change(project, seen) == "data/a.npy is gone"


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_file_that_was_not_readable_stays_so(project: Path) -> None:
    (project / "helper.py").chmod(0)
    assert change(project, Observation(kind="file", name="helper.py")) is None
    (project / "helper.py").chmod(0o600)
    assert change(project, Observation(kind="file", name="helper.py")) == "helper.py changed"


def test_file_that_was_looked_for_and_came_is_named(project: Path) -> None:
    seen = Observation(kind="absent", name="override.json")
    assert change(project, seen) is None
    (project / "override.json").touch()
    assert change(project, seen) == "override.json is there now"


def test_name_that_no_file_can_have_is_absent(project: Path) -> None:
    assert change(project, Observation(kind="absent", name="x" * 300)) is None


def test_files_that_come_and_go_change_a_listing(project: Path) -> None:
    seen = Observation(kind="listing", name="data", digest=listing_digest(project / "data"))
    assert change(project, seen) is None
    (project / "data/__pycache__").mkdir()
    assert change(project, seen) is None
    (project / "data/b.npy").touch()
    assert change(project, seen) == "files in data changed"
    (project / "data/b.npy").rename(project / "data/c.npy")
    assert change(project, seen) == "files in data changed"
    (project / "data/c.npy").unlink()
    assert change(project, seen) is None


def test_folder_that_is_gone_changes_its_listing(project: Path) -> None:
    empty = project / "empty"
    empty.mkdir()
    seen = Observation(kind="listing", name="empty", digest=listing_digest(empty))
    empty.rmdir()
    assert change(project, seen) == "files in empty changed"


def test_other_version_of_a_package_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = project / "site-packages"
    monkeypatch.syspath_prepend(str(packages))
    assert str(packages) in sys.path
    for version in ("1.0", "1.0.1"):
        info = packages / f"shapes-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: shapes\nVersion: {version}\n")
        seen = Observation(kind="package", name="shapes", digest="1.0")
        if version == "1.0":
            assert change(project, seen) is None
            (info / "METADATA").unlink()
            info.rmdir()
    assert change(project, seen) == "shapes 1.0 is now 1.0.1"
    gone = Observation(kind="package", name="was-never-installed", digest="3")
    assert change(project, gone) == "was-never-installed 3 is now not installed"
    numpy = Observation(kind="package", name="numpy", digest=importlib.metadata.version("numpy"))
    assert change(project, numpy) is None


def test_first_of_several_changes_is_told(project: Path) -> None:
    observed = [
        helper(project),
        Observation(kind="absent", name="data"),
        Observation(kind="file", name="none", digest="0"),
    ]
    observer = Observer(project, SourceDigests(project.parent / "store/.sources"))
    assert observer.first_change(observed) == "data is there now"


def entry(key: str) -> IndexEntry:
    return IndexEntry(key=key, observed=(Observation(kind="absent", name="ä"),))


def test_index_gives_the_newest_entry_first(tmp_path: Path) -> None:
    index = tmp_path / "index/lookup.jsonl"
    assert read_index(index) == []
    for key in ("one", "two"):
        append_index(index, entry(key))
    assert read_index(index) == [entry("two"), entry("one")]


@pytest.mark.parametrize(
    "damage",
    [
        b'{"key": "torn", "observ',
        b"\x00" * 500,
        b"\xff\xfe garbage \xc3\n\n\n",
        b'{"key": "newer", "observed": [], "unknown": 1}\n',
        b'{"key": "x", "observed": [{"kind": "weather", "name": "y"}]}\n',
        b"[]\nnull\n5\n",
    ],
)
def test_torn_and_garbled_lines_are_passed_over(tmp_path: Path, damage: bytes) -> None:
    index = tmp_path / "lookup.jsonl"
    append_index(index, entry("one"))
    with index.open("ab") as stream:
        stream.write(damage)
    append_index(index, entry("two"))
    assert read_index(index) == [entry("two"), entry("one")]


def test_lines_of_processes_that_write_at_once_stay_whole(tmp_path: Path) -> None:
    index = tmp_path / "lookup.jsonl"
    for program in [Program(APPEND, index, name) for name in "abc"]:
        program.end()
    entries = read_index(index)
    assert sorted(found.key for found in entries) == ["a"] * 30 + ["b"] * 30 + ["c"] * 30
    assert all(json.loads(line) for line in index.read_text().splitlines() if line)
