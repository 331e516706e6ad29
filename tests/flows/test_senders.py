"""Whoever announces a checkpoint hears of every error, and what is sent is what was meant."""

import hashlib
import importlib.util
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from flows import callbacks
from flows.events import EVENT, Retrained
from flows.hooks import Server, model_retrained
from flows.prefect_http import PrefectHttp
from tasks.core.errors import ConfigError, TrtflowError
from tests.commands import SOURCE, TORCH, Call, fresh_torch
from tests.prefect_stand_in import StandIn, stand_in
from tests.projects import ROOT, Project

AT_ONCE = Server(patience_s=0)


@pytest.fixture(scope="module")
def heard() -> Iterator[StandIn]:
    with stand_in() as server:
        yield server


@pytest.fixture
def server(heard: StandIn, monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """A server that has heard nothing yet; the environment leads there."""
    heard.__dict__.update(StandIn(url=heard.url).__dict__)
    monkeypatch.setenv("PREFECT_API_URL", heard.url)
    monkeypatch.delenv("PREFECT_API_AUTH_STRING", raising=False)
    monkeypatch.delenv("PREFECT_API_KEY", raising=False)
    return heard


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = fresh_torch(tmp_path / "project")
    project.write(net={**TORCH, "on_retrain": True}, deaf=TORCH, unknown={**SOURCE, "on_retrain": True})
    (project.folder / "linear.onnx").write_bytes(b"")
    return project


@pytest.fixture
def checkpoint(project: Project) -> Path:
    return project.folder / "weights.safetensors"


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_hook_sends_one_event_with_path_and_digest(
    server: StandIn, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(checkpoint.parent)
    sent = model_retrained("net", checkpoint.name, metadata={"epoch": "3"})
    (event,) = server.events
    assert event == sent.as_event()
    assert event["event"] == EVENT
    assert event["resource"] == {"prefect.resource.id": "trtflow.pipeline.net", "prefect.resource.name": "net"}
    assert event["payload"] == {
        "pipeline": "net",
        "checkpoint": str(checkpoint),
        "sha256": digest_of(checkpoint),
        "metadata": {"epoch": "3"},
    }
    assert datetime.fromisoformat(event["occurred"]).tzinfo


def test_a_url_is_sent_as_it_is_with_the_digest_that_was_given(server: StandIn, checkpoint: Path) -> None:
    model_retrained("net", "s3://bucket/a.pt")
    model_retrained("net", "s3://bucket/a.pt", sha256="AB" * 32)
    model_retrained("net", f"file://{checkpoint}")
    assert [event["payload"]["sha256"] for event in server.events] == [None, "ab" * 32, digest_of(checkpoint)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("net", "none.pt"), "there is no checkpoint 'none.pt'"),
        (("net", "."), "is a folder"),
        (("net", ""), "names no checkpoint"),
        (("net", "a\0b"), "names no checkpoint"),
        (("net", "{checkpoint}", "0" * 64), "not 0000"),
        (("net", "{checkpoint}", "0"), "'0' is no sha256"),
        (("net", "s3://a/b", "0"), "'0' is no sha256"),
        (("other", "{checkpoint}"), "has no deployment 'convert/other'"),
        (("a b?", "{checkpoint}"), "has no deployment 'convert/a b?'"),
    ],
)
def test_what_cannot_be_converted_is_refused_and_not_sent(
    server: StandIn, checkpoint: Path, arguments: tuple[str, ...], message: str
) -> None:
    pipeline, path, *digest = (text.format(checkpoint=checkpoint) for text in arguments)
    with pytest.raises(ConfigError) as caught:
        model_retrained(pipeline, path, sha256=digest[0] if digest else None, server=AT_ONCE)
    assert message in caught.value.message
    assert caught.value.cure
    assert not server.events


def test_metadata_is_text(server: StandIn, checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="metadata 'epoch' is 3"):
        model_retrained("net", checkpoint, metadata={"epoch": 3})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="longer than"):
        model_retrained("net", checkpoint, metadata={"log": "x" * 100_000})
    with pytest.raises(ConfigError, match="time of no time zone"):
        Retrained("net", "a", occurred=datetime(2026, 1, 1))  # noqa: DTZ001 - that is the mistake
    assert not server.events


def test_a_pipeline_that_does_not_listen_is_named(server: StandIn, checkpoint: Path) -> None:
    server.listening = False
    with pytest.raises(ConfigError, match="waits for a retrained 'net'"):
        model_retrained("net", checkpoint, server=AT_ONCE)
    assert not server.events


@pytest.mark.parametrize("how", ["argument", "environment", "address"])
def test_a_server_with_a_password_takes_who_has_it(
    server: StandIn, checkpoint: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.password = "me:se:cret/@"  # noqa: S105 - of a server of the test
    with pytest.raises(ConfigError, match=r"does not let us in \(401\)") as caught:
        model_retrained("net", checkpoint)
    assert "PREFECT_API_AUTH_STRING" in caught.value.cure
    with pytest.raises(ConfigError, match="401"):
        model_retrained("net", checkpoint, server=Server(auth="me:wrong"))
    assert not server.events
    given = Server()
    if how == "environment":
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", server.password)
    elif how == "argument":
        given = Server(auth=server.password)
    else:
        given = Server(url=server.url.replace("//", "//me:se%3Acret%2F%40@"))
    model_retrained("net", checkpoint, server=given)
    assert len(server.events) == 1


def test_a_server_that_is_down_is_named_with_what_to_do(checkpoint: Path) -> None:
    with pytest.raises(TrtflowError) as caught:
        model_retrained("net", checkpoint, server=Server("http://127.0.0.1:9/api", patience_s=0))
    assert "http://127.0.0.1:9/api does not answer: [Errno 111]" in caught.value.message
    assert "trtflow run NAME --checkpoint PATH" in caught.value.cure


def test_a_server_that_comes_back_is_waited_for(
    server: StandIn, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("flows.prefect_http._POLL_S", 0.01)
    server.broken = [503, 502]
    model_retrained("net", checkpoint)
    assert len(server.events) == 1
    assert caplog.text.count("asked again for up to 30 s") == 1
    server.broken = [500]
    with pytest.raises(TrtflowError, match="did not take it: 500"):
        model_retrained("net", checkpoint)
    assert len(server.events) == 1


@pytest.mark.parametrize("url", ["localhost:4200", "ftp://a/api", "http://", "http://[::1/api"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is no address of a Prefect API"):
        PrefectHttp.of(url, None, 0)


def test_an_address_of_something_else_is_refused(server: StandIn, checkpoint: Path) -> None:
    with pytest.raises(ConfigError, match="is no Prefect API: 404"):
        model_retrained("net", checkpoint, server=Server(server.url.removesuffix("/api"), patience_s=0))
    server.moved = "http://elsewhere.invalid/api"
    with pytest.raises(ConfigError, match=r"leads on to http://elsewhere\.invalid/api"):
        model_retrained("net", checkpoint, server=AT_ONCE)


@pytest.mark.parametrize("python", [sys.executable, "python3.10"])
def test_the_hook_needs_nothing_but_the_standard_library(server: StandIn, checkpoint: Path, python: str) -> None:
    """Neither site-packages nor anything else of trtflow than what it imports."""
    found = [*Path.home().glob(f".pyenv/versions/3.10*/bin/{python}"), shutil.which(python)]
    # A name on PATH may be pyenv's, for a version that is not chosen here.
    places = [place for place in found if place and subprocess.run([str(place), "-c", ""], check=False).returncode == 0]
    if not places:
        pytest.skip(f"there is no {python} that runs")
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); from flows.hooks import model_retrained; "
        f"import flows.callbacks; model_retrained('net', {str(checkpoint)!r}); "
        "print([n for n in sys.modules if n.partition('.')[0] in ('flows', 'tasks')])"
    )
    ended = subprocess.run(
        [str(places[0]), "-I", "-S", "-W", "error", "-B", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    assert len(server.events) == 1


def test_notify_sends_what_the_hook_sends(server: StandIn, project: Project, call: Call, checkpoint: Path) -> None:
    said = call(project, "notify", "net", "--checkpoint", str(checkpoint), "--metadata", "by=me", "--metadata", "x=a=b")
    assert (said.code, said.err) == (0, "")
    (event,) = server.events
    assert event["payload"]["metadata"] == {"by": "me", "x": "a=b"}
    assert said.out == (
        f"told {server.url}: net was retrained, {checkpoint} (sha256 {digest_of(checkpoint)})\nevent {event['id']}\n"
    )
    said = call(project, "notify", "net", "--checkpoint", str(checkpoint), "--sha256", digest_of(checkpoint), "--json")
    assert said.json == {"api": server.url, "id": server.events[1]["id"], **server.events[1]["payload"]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nett", "--checkpoint", "{}"), "there is no pipeline 'nett'"),
        (("deaf", "--checkpoint", "{}"), "this pipeline does not wait for retrained checkpoints"),
        (("unknown", "--checkpoint", "{}"), "has no deployment 'convert/unknown'"),
        (("net", "--checkpoint", "{}.none"), "there is no checkpoint"),
        (("net", "--checkpoint", "/etc/hostname"), "lies below none of the roots"),
        (("net", "--checkpoint", "s3://bucket/a.pt"), "lies below none of the roots"),
        (("net", "--checkpoint", "{}", "--sha256", "0" * 64), "has the sha256"),
        (("net", "--checkpoint", "{}", "--metadata", "x"), "'x' is no metadata"),
        (("net", "--checkpoint", "{}", "--metadata", "x=1", "--metadata", "x=2"), "'x' is given twice"),
        (("net",), "--checkpoint"),
    ],
)
def test_notify_ends_with_2_for_what_is_found_before_it_is_sent(
    server: StandIn, project: Project, call: Call, arguments: tuple[str, ...], message: str
) -> None:
    checkpoint = project.folder / "weights.safetensors"
    said = call(project, "notify", *(text.format(checkpoint) for text in arguments))
    assert (said.code, said.out) == (2, "")
    assert message in said.err
    assert not server.events


def test_notify_looks_whether_a_url_leads_to_something(server: StandIn, project: Project, call: Call) -> None:
    import fsspec

    path = project.folder / "pipelines.yaml"
    path.write_text(path.read_text() + "checkpoints: ['memory://models', 'zip://models']\n")
    fsspec.filesystem("memory").pipe("/models/a.pt", b"a")
    assert call(project, "notify", "net", "--checkpoint", "memory://models/a.pt").code == 0
    said = call(project, "notify", "net", "--checkpoint", "memory://models/b.pt")
    assert (said.code, "there is no checkpoint memory://models/b.pt" in said.err) == (2, True)
    said = call(project, "notify", "net", "--checkpoint", "zip://models/b.pt")
    assert said.code == 0
    assert "cannot be looked at from here" in said.err
    assert len(server.events) == 2


def test_notify_ends_with_1_where_no_server_answers_for_long(
    project: Project, call: Call, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    said = call(project, "notify", "net", "--checkpoint", str(checkpoint), "--wait", "1.5")
    assert (said.code, "asked again for up to 2 s" in caplog.text) == (1, True)
    said = call(project, "notify", "net", "--checkpoint", str(checkpoint), "--wait", "0", "--json")
    assert said.code == 1
    assert "does not answer" in said.json["error"]["message"]
    assert "trtflow run NAME --checkpoint PATH" in said.json["error"]["cure"]


def test_the_module_of_the_callbacks_imports_neither_library() -> None:
    code = "import sys, flows.callbacks; print(sorted({'torch', 'transformers', 'lightning'} & set(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    assert ended.stdout == "[]\n"
    with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
        _ = callbacks.Nothing


def test_an_announcer_may_log_instead_of_ending_a_training(
    server: StandIn, caplog: pytest.LogCaptureFixture, checkpoint: Path
) -> None:
    callbacks.Announcer("other", on_error="log").announce(str(checkpoint), {})
    callbacks.Announcer("net", on_error="log").announce(None, {})
    assert "has no deployment 'convert/other'" in caplog.text
    assert "saved no checkpoint" in caplog.text
    with pytest.raises(ConfigError):
        callbacks.Announcer("other").announce(str(checkpoint), {})
    assert not server.events


def needs(*modules: str) -> None:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of those libraries
def test_lightning_announces_its_best_checkpoint(server: StandIn, tmp_path: Path) -> None:
    needs("lightning")
    from tests.trainings import lightning_fit

    callback = callbacks.LightningCallback("net", metadata={"by": "test"})
    assert pickle.loads(pickle.dumps(callback)).announcer == callback.announcer  # noqa: S301 - our own
    best = lightning_fit(tmp_path, callback)
    (event,) = server.events
    assert event["payload"]["checkpoint"] == best
    assert event["payload"]["sha256"] == digest_of(Path(best))
    known: dict[str, Any] = event["payload"]["metadata"]
    assert (known["by"], known["epoch"], known["step"]) == ("test", "2", "4")
    assert float(known["score"]) >= 0


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of those libraries
def test_the_trainer_of_hugging_face_announces_its_last_checkpoint(server: StandIn, tmp_path: Path) -> None:
    needs("transformers", "accelerate")
    from tests.trainings import transformers_fit

    transformers_fit(tmp_path, callbacks.TransformersCallback("net"))
    (event,) = server.events
    path = tmp_path / "checkpoint-4" / "model.safetensors"
    assert event["payload"]["checkpoint"] == str(path)
    assert event["payload"]["sha256"] == digest_of(path)
    assert event["payload"]["metadata"] == {"epoch": "2.0", "step": "4"}
