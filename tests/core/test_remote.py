"""The files below a URL: whole or absent, the first one wins, and what goes wrong is told with what to do."""

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tasks.core.errors import RemoteRefused, StoreError
from tasks.core.remote import Remote, check_url
from tasks.core.remote_errors import shown, told_url, without_queries
from tests.s3_server import S3Server, start_server


def test_what_is_written_is_read_back_and_what_is_not_there_is_none(url: str, tmp_path: Path) -> None:
    remote = Remote(url)
    assert (remote.read("a/b"), remote.size("a/b"), remote.names("a"), remote.files()) == (None, None, [], [])
    remote.write("a/b", b"content")
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    remote.upload(tmp_path / "large", "a/c/d")
    assert (remote.read("a/b"), remote.size("a/b")) == (b"content", 7)
    assert remote.read_part("a/c/d", 99_990, 100_000) == b"x" * 10
    assert remote.names("a") == ["b", "c"]
    assert {(found.name, found.bytes) for found in remote.files()} == {("a/b", 7), ("a/c/d", 100_000)}
    assert all(found.written is not None for found in remote.files())
    assert remote.read_many(["a/b", "a/none"]) == {"a/b": b"content"}
    assert remote.read_many(["a/none"]) == {}
    remote.remove(["a/b", "a/none"])
    assert [found.name for found in remote.files()] == ["a/c/d"]


def test_of_many_that_create_a_file_one_succeeds(url: str) -> None:
    if url.startswith("memory:"):
        pytest.skip("memory:// does not lock: it is for tests of one process")
    remote = Remote(url)
    remote.write("before", b"")
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda number: remote.create("marker", b"%d" % number), range(8)))
    assert done.count(True) == 1
    assert remote.read("marker") == b"%d" % done.index(True)
    assert [found.name for found in remote.files()] == ["before", "marker"]


def test_a_file_that_is_there_is_not_created(url: str) -> None:
    remote = Remote(url)
    assert remote.create("marker", b"first")
    assert not remote.create("marker", b"second")
    assert remote.read("marker") == b"first"


@pytest.mark.parametrize(
    ("url", "message", "cure"),
    [
        ("s4://bucket/a", "there is no protocol 's4'", "s3"),
        ("s3://", "names no place", "s3://NAME/FOLDER"),
        ("file://host/folder", "names a host", "file:///FOLDER"),
        ("simplecache::s3://bucket/a", "a chain of URLs", "a cache of its own"),
        ("dropbox://folder", "needs a driver that is not installed", "dropbox"),
    ],
)
def test_a_url_that_cannot_be_opened_is_refused(url: str, message: str, cure: str) -> None:
    with pytest.raises(StoreError) as refused:
        check_url(url)
    assert message in refused.value.message
    assert cure in refused.value.cure


def test_passwords_in_a_url_are_not_told() -> None:
    assert shown("sftp://me:secret@host/folder") == "sftp://host/folder"
    assert told_url("https://me:secret@host/a.pt?X-Amz-Signature=secret#secret") == "https://host/a.pt?..."
    said = "403, message='Forbidden', url='https://host/a.pt?sig=secret' (why?)"
    assert without_queries(said) == "403, message='Forbidden', url='https://host/a.pt?...' (why?)"


def test_a_bucket_that_is_not_there_is_told(s3: str) -> None:
    remote = Remote(f"{s3.replace('models', 'nowhere')}")
    with pytest.raises(RemoteRefused, match="there is no such bucket"):
        remote.read("a")
    with pytest.raises(RemoteRefused, match="there is no such bucket"):
        remote.write("a", b"")


def test_missing_credentials_are_told(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(RemoteRefused, match="asks for credentials, and there are none"):
        Remote(s3).read("a")


def test_wrong_credentials_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    server: S3Server = start_server(INITIAL_NO_AUTH_ACTION_COUNT="3")  # as many as it takes to make the bucket
    try:
        for name, text in server.environment.items():
            monkeypatch.setenv(name, text)
        with pytest.raises(RemoteRefused, match="does not permit reading a") as refused:
            Remote("s3://models/a").read("a")
        assert "secret" not in str(refused.value)
    finally:
        server.stop()


def test_a_server_that_does_not_answer_is_told_within_seconds(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{unused.getsockname()[1]}")
        with pytest.raises(StoreError, match="does not answer"):
            Remote(s3).read("a")
