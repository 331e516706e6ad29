"""Checkpoints that a command or an event names: which may be used, and that a run uses the bytes it says."""

import hashlib
import json
import os
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import BinaryIO

import fsspec
import numpy as np
import onnx
import pytest
from onnx import external_data_helper

from flows.retrained import Cache, cache_of, fetched, record_of, why_unseen, with_checkpoint
from flows.roots import Roots, roots_of
from tasks.core.config import Config
from tasks.core.errors import ConfigError, StoreError
from tasks.core.store import Store
from tests.commands import TINY, TORCH, Call, fresh, tree, write_checkpoint
from tests.projects import Project, linear


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def append(project: Project, text: str) -> None:
    path = project.folder / "pipelines.yaml"
    path.write_text(path.read_text() + text)


def config_of(**top: object) -> Config:
    return Config.model_validate({"version": 1, "pipelines": {"net": TORCH, "tiny": TINY}, **top})


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder of checkpoints, beside one that is nobody's business."""
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.safetensors").write_bytes(b"a" * 1000)
    (tmp_path / "outside.pt").write_bytes(b"secret")
    return tmp_path


@pytest.fixture
def cache(place: Path) -> Cache:
    return cache_of(Store(place / "store", place), "net")


@pytest.fixture
def roots(place: Path) -> Roots:
    return Roots(place, (place / "in",), ("memory://models/net", "s3://bucket"))


def test_a_path_may_hold_a_question_mark(place: Path, cache: Cache, roots: Roots) -> None:
    (place / "in" / "a?b.safetensors").write_bytes(b"a")
    assert fetched(f"{place}/in/a?b.safetensors", None, roots, cache).path.name == "checkpoint.safetensors"


class _Signed(BaseHTTPRequestHandler):
    """Answers who has the right signature."""

    def do_GET(self) -> None:
        right = self.path == "/a.pt?sig=right"
        self.send_response(200 if right else 403)
        self.send_header("Content-Length", "4" if right else "0")
        self.end_headers()
        if right and self.command == "GET":
            self.wfile.write(b"good")

    do_HEAD = do_GET  # noqa: N815 - as BaseHTTPRequestHandler looks for it

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name there
        del format, args


@pytest.fixture
def signed() -> Iterator[str]:
    """The address of a server of pre-signed URLs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Signed) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/a.pt"
        server.shutdown()


def test_what_signs_a_url_is_neither_recorded_nor_told(cache: Cache, signed: str) -> None:
    found = fetched(f"{signed}?sig=right", None, None, cache)
    assert (found.path.name, found.path.read_bytes()) == ("checkpoint.pt", b"good")
    assert record_of(found).given == f"{signed}?..."
    with pytest.raises(ConfigError) as caught:
        fetched(f"{signed}?sig=wrong", None, None, cache)
    assert f"the checkpoint {signed}?... cannot be fetched: 403" in caught.value.message
    assert "wrong" not in str(caught.value)
    told = why_unseen(f"{signed}?sig=wrong")
    assert told.startswith(f"{signed}?... cannot be looked at from here: 403")
    assert "wrong" not in told


@pytest.mark.parametrize("how", ["{}/in/", "in/", "file://{}/in/", "in/../in/"])
def test_a_path_below_a_root_is_copied_once(place: Path, cache: Cache, roots: Roots, how: str) -> None:
    digest = digest_of(b"a" * 1000)
    found = fetched(how.format(place) + "a.safetensors", digest.upper(), roots, cache)
    assert found.path == cache.folder / digest / "checkpoint.safetensors"
    assert (found.path.read_bytes(), found.sha256) == (b"a" * 1000, digest)
    written = found.path.stat().st_mtime_ns
    assert fetched("in/a.safetensors", None, roots, cache).path.stat().st_mtime_ns == written


def test_what_was_announced_is_used_whatever_lies_there_by_now(place: Path, cache: Cache, roots: Roots) -> None:
    before = fetched("in/a.safetensors", None, roots, cache)
    (place / "in" / "a.safetensors").write_bytes(b"b" * 1000)
    again = fetched("in/a.safetensors", before.sha256, roots, cache)
    assert again.path.read_bytes() == b"a" * 1000
    assert fetched("in/a.safetensors", None, roots, cache).path.read_bytes() == b"b" * 1000


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        ("{}/outside.pt", "lies below none of the roots"),
        ("in/../outside.pt", "lies below none of the roots"),
        ("in/link.pt", "outside.pt, lies below none of the roots"),
        ("in/folder/outside.pt", "outside.pt, lies below none of the roots"),
        ("in/loop.pt", "cannot be read"),
        ("file://{}/in/../outside.pt", "lies below none of the roots"),
        ("local://{}/outside.pt", "lies below none of the roots"),
        ("file://host/in/a.safetensors", "names a host"),
        ("{}/index/a.safetensors", "lies below none of the roots"),
        ("/dev/zero", "lies below none of the roots"),
        ("in/pipe", "is no file"),
        ("in", "is no file"),
        ("in/none.pt", "there is no checkpoint"),
        ("in/none.pt/b", "there is no checkpoint"),
        ("in/" + "x" * 300, "cannot be read: File name too long"),
        ("~nobody-of-that-name/a.pt", "is no path"),
        ("in/\0", "is no path"),
        ("memory://models/other/a.pt", "lies below none of the roots"),
        ("memory://models/network/a.pt", "lies below none of the roots"),
        ("memory://models/net/../other/a.pt", "holds '.', '..'"),
        ("memory://models/net/%2e%2e/other/a.pt", "holds '.', '..'"),
        ("memory://models/net/%252e%252e/other/a.pt", "holds '.', '..'"),
        ("memory://models/net\\..\\a.pt", "holds '.', '..'"),
        ("memory://models/net/a\n.pt", "holds '.', '..'"),
        ("memory://models/net/none.pt", "there is no checkpoint"),
        ("s3://bucket.evil.example/a.pt", "lies below none of the roots"),
        ("s3://bucket@evil.example/a.pt", "lies below none of the roots"),
        ("S3://bucket/a.pt", "lies below none of the roots"),
        ("simplecache::s3://bucket/a.pt", "a chain of URLs"),
        ("http://[/a.pt", "is no URL"),
    ],
)
def test_what_may_not_be_or_is_not_there_is_refused_and_leaves_nothing(
    place: Path, cache: Cache, roots: Roots, checkpoint: str, message: str
) -> None:
    (place / "in" / "link.pt").symlink_to(place / "outside.pt")
    (place / "in" / "folder").symlink_to(place)
    (place / "in" / "loop.pt").symlink_to(place / "in" / "loop.pt")
    os.mkfifo(place / "in" / "pipe")
    with pytest.raises(ConfigError) as caught:
        fetched(checkpoint.format(place), None, roots, cache)
    assert message in caught.value.message
    assert caught.value.cure
    assert not tree(cache.folder)


def test_a_digest_that_is_another_is_refused_and_leaves_nothing(place: Path, cache: Cache, roots: Roots) -> None:
    with pytest.raises(ConfigError, match=f"has the sha256 {digest_of(b'a' * 1000)}, and 0{{64}} was announced"):
        fetched("in/a.safetensors", "0" * 64, roots, cache)
    assert not tree(cache.folder)
    with pytest.raises(ConfigError, match="'12' is no sha256"):
        fetched("in/a.safetensors", "12", roots, cache)
    assert place.is_dir()


def test_a_url_is_fetched_once_and_verified(cache: Cache) -> None:
    memory = fsspec.filesystem("memory")
    bucket = uuid.uuid4().hex
    memory.pipe(f"/{bucket}/a.ckpt", b"weights")
    roots = Roots(Path.cwd(), (), (f"memory://{bucket}",))
    url, digest = f"memory://{bucket}/a.ckpt", digest_of(b"weights")
    with pytest.raises(ConfigError, match="was announced"):
        fetched(url, "0" * 64, roots, cache)
    assert not tree(cache.folder)
    found = fetched(url, digest, roots, cache)
    assert (found.path.name, found.path.read_bytes()) == ("checkpoint.ckpt", b"weights")
    memory.rm(f"/{bucket}/a.ckpt")
    assert fetched(url, digest, roots, cache) == found
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        fetched(url, None, roots, cache)


def test_an_s3_url_is_fetched(s3: str, cache: Cache, place: Path) -> None:
    fs, path = fsspec.url_to_fs(s3, skip_instance_cache=True)
    fs.pipe(f"{path}/a.pt", b"weights")
    roots = Roots(place, (), (s3,))
    assert fetched(f"{s3}/a.pt", None, roots, cache).path.read_bytes() == b"weights"
    with pytest.raises(ConfigError, match="there is no checkpoint"):
        fetched(f"{s3}/b.pt", None, roots, cache)


def test_a_copy_that_was_damaged_is_fetched_again(place: Path, cache: Cache, roots: Roots) -> None:
    found = fetched("in/a.safetensors", None, roots, cache)
    found.path.chmod(0o644)
    found.path.write_bytes(b"damaged")
    assert fetched("in/a.safetensors", found.sha256, roots, cache).path.read_bytes() == b"a" * 1000
    assert place.is_dir()


def test_the_same_bytes_by_another_ending_have_a_name_of_it(place: Path, cache: Cache, roots: Roots) -> None:
    (place / "in" / "b.pt").write_bytes(b"a" * 1000)
    one, two = (fetched(name, None, roots, cache).path for name in ("in/a.safetensors", "in/b.pt"))
    assert (one.parent, one.name, two.name) == (two.parent, "checkpoint.safetensors", "checkpoint.pt")
    assert one.samefile(two) or one.read_bytes() == two.read_bytes()


def test_two_that_fetch_at_once_both_get_it(place: Path, cache: Cache, roots: Roots) -> None:
    (place / "in" / "big.pt").write_bytes(bytes(20 << 20))
    found, errors = [], []

    def fetch() -> None:
        try:
            found.append(fetched("in/big.pt", None, roots, cache))
        except (ConfigError, StoreError) as error:
            errors.append(error)

    threads = [threading.Thread(target=fetch) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(set(found)) == 1
    assert set(tree(cache.folder)) == {found[0].sha256, f"{found[0].sha256}/checkpoint.pt"}


def test_a_file_that_grows_while_it_is_copied_is_refused(
    place: Path, cache: Cache, roots: Roots, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = place / "in" / "a.safetensors"
    monkeypatch.setattr("flows.retrained._CHUNK", 100)
    fetched("in/a.safetensors", None, roots, cache)
    source.write_bytes(b"c" * 1000)
    grown = False

    def read(stream: BinaryIO) -> Iterator[bytes]:
        nonlocal grown
        for chunk in original(stream):
            if not grown:
                grown = True
                source.write_bytes(b"d" * 2000)
            yield chunk

    from flows import retrained

    original = retrained._read
    monkeypatch.setattr(retrained, "_read", read)
    with pytest.raises(ConfigError, match="was written to while it was read"):
        fetched("in/a.safetensors", None, roots, cache)
    assert set(tree(cache.folder)) == {digest_of(b"a" * 1000), f"{digest_of(b'a' * 1000)}/checkpoint.safetensors"}


def test_by_default_the_root_is_the_folder_of_the_own_checkpoint(tmp_path: Path) -> None:
    assert roots_of(config_of(), "net", tmp_path).folders == (tmp_path.resolve(),)
    assert roots_of(config_of(), "tiny", tmp_path).folders == (tmp_path.resolve(),)
    without = {**TORCH, "model": {"torch": "net:build"}}
    roots = roots_of(Config.model_validate({"version": 1, "pipelines": {"net": without}}), "net", tmp_path)
    with pytest.raises(ConfigError, match="this pipeline has no root for checkpoints"):
        fetched(str(tmp_path), None, roots, cache_of(Store(tmp_path, tmp_path), "net"))


def test_roots_are_resolved_from_the_yaml(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path)
    listed = ["runs", "link/runs", f"file://{tmp_path}/more", "s3://bucket/models/", "~/models"]
    roots = roots_of(config_of(checkpoints=listed), "net", tmp_path)
    assert roots.folders == (tmp_path / "runs", tmp_path / "more", (Path.home() / "models").resolve())
    assert roots.prefixes == ("s3://bucket/models",)


@pytest.mark.parametrize("root", ["/", "file:///", "s3://", "", "a::s3://b", "s3://b/../c", "s 3://b", "a\nb"])
def test_a_root_that_is_none_is_refused_with_its_line(root: str, new: Project, call: Call) -> None:
    append(new, f"checkpoints:\n- in\n- {json.dumps(root)}\n")
    said = call(new, "validate", "--json")
    assert said.code == 2
    lines = (new.folder / "pipelines.yaml").read_text().splitlines()
    assert said.json["error"]["path"] == "checkpoints[1]"
    assert said.json["error"]["line"] == len(lines)
    assert said.json["error"]["cure"]


@pytest.mark.parametrize("wrong", ["[]", "in", "{in: 1}", "[1]"])
def test_roots_are_a_list_of_texts(wrong: str, new: Project, call: Call) -> None:
    append(new, f"checkpoints: {wrong}\n")
    assert call(new, "validate", "--json").json["error"]["path"].startswith("checkpoints")


def test_an_onnx_file_comes_with_the_files_that_hold_its_weights(place: Path, cache: Cache, roots: Roots) -> None:
    for name, scale in (("one", 1.0), ("two", 2.0)):
        model = linear()
        model.graph.initializer[0].raw_data = (scale * np.ones((4, 3), np.float32)).tobytes()
        external_data_helper.convert_model_to_external_data(model, location="w.bin", size_threshold=0)
        (place / "in" / name).mkdir()
        onnx.save(model, place / "in" / name / "m.onnx")
    one, two = (fetched(f"in/{name}/m.onnx", None, roots, cache) for name in ("one", "two"))
    assert (place / "in/one/m.onnx").read_bytes() == (place / "in/two/m.onnx").read_bytes()
    assert one.sha256 != two.sha256
    assert onnx.load(two.path).graph.initializer[0].raw_data[:4] == np.float32(2).tobytes()
    (place / "in" / "two" / "w.bin").unlink()
    with pytest.raises(ConfigError, match=r"there is no checkpoint 'in/two/w.bin'"):
        fetched("in/two/m.onnx", None, roots, cache)
    (place / "in" / "two" / "w.bin").symlink_to(place / "outside.pt")
    with pytest.raises(ConfigError, match="lies below none of the roots"):
        fetched("in/two/m.onnx", None, roots, cache)


@pytest.mark.slow
def test_a_run_uses_the_checkpoint_that_it_was_given_and_says_so(torch_done: Project, tmp_path: Path) -> None:
    project = torch_done
    write_checkpoint(tmp_path, 2.0)
    given = tmp_path / "weights.safetensors"
    digest = digest_of(given.read_bytes())
    finished = project.run("run", "net", "--checkpoint", str(given), "--sha256", digest, "--json")
    assert finished.code == 0, finished.stderr
    assert f"made from the checkpoint {given} (sha256 {digest})" in finished.stderr
    record = project.record("net")
    assert record.checkpoint is not None
    assert (record.checkpoint.given, record.checkpoint.sha256) == (str(given), digest)
    exported = {step.step: step for step in record.outcome.steps}["export"]
    assert not exported.cached
    again = project.run("run", "net", "--checkpoint", f"file://{given}", "--json")
    assert {step.step for step in again.runs["net"].steps if not step.cached} == {"promote"}
    refused = project.run("run", "net", "--checkpoint", str(given), "--sha256", "0" * 64)
    assert (refused.code, refused.stdout) == (2, "")
    assert "was announced" in refused.stderr


def test_gc_keeps_the_checkpoints_of_the_runs_that_it_keeps(tmp_path: Path, call: Call) -> None:
    project = fresh(tmp_path / "project")
    model = linear("batch")
    model.graph.name = "other"
    onnx.save(model, tmp_path / "other.onnx")
    assert project.run("run", "tiny", "--checkpoint", str(tmp_path / "other.onnx")).code == 0
    (kept,) = (project.store / "tiny" / "checkpoints").iterdir()
    assert call(project, "gc", "--yes", "--keep-runs", "1").code == 0
    assert kept.is_dir()
    assert project.run("run", "tiny").code == 0
    said = call(project, "gc", "--yes", "--keep-runs", "1")
    assert f"tiny/checkpoints/{kept.name}" in said.out
    assert not kept.exists()


def test_the_checkpoint_stands_in_for_the_one_of_the_yaml(place: Path, cache: Cache, roots: Roots) -> None:
    found = fetched("in/a.safetensors", None, roots, cache)
    for name, key in (("net", "checkpoint"), ("tiny", "onnx")):
        pipeline = with_checkpoint(config_of().pipelines[name], found)
        assert getattr(pipeline.model, key) == str(found.path)
    assert place.is_dir()
