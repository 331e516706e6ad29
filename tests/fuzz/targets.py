"""What is fuzzed: five kinds of input, each with a check that holds for whatever is in them."""

import contextlib
import io
import os
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.core.errors import TrtflowError
from tasks.runtimes.process import Process, Task, Zygote
from tasks.runtimes.protocol import Done, Ended, Failed, Failure, Request, decode_answer
from tasks.runtimes.selftest import Text
from tasks.runtimes.worker import Answerer
from tests.fuzz.mutations import documents, json_text, line_documents, yaml_documents
from tests.fuzz.world import World, inside, time_limit

Command = tuple[str, ...]

_SECONDS = 20.0
_TASK = Task("fuzz", Text, None, _SECONDS)
_LOOKING: list[Command] = [
    *(("list",), ("list", "--json"), ("show", "{name}"), ("show", "{name}", "--json"), ("plan", "--json"), ("plan",)),
    *(("gc", "--dry-run"), ("verify", "--json"), ("verify", "--key", "{outside}/team.pub")),
]
_CHANGING: list[Command] = [
    *(("gc", "--keep-runs", "1"), ("gc", "--keep-runs", "1", "--json"), ("rollback", "{name}", "--json")),
    ("promote", "{name}", "onnxruntime/fp32"),
]
_RUNNING: list[Command] = [("run", "--json"), ("run", "--verify")]
_LINKS = ["", "{name}/build/linked", "{name}/linked", "{name}/runs/linked", "{name}/promotions/linked.json", "linked"]


@dataclass(frozen=True)
class Target:
    """A kind of input: how to make one, and the check."""

    name: str
    inputs: st.SearchStrategy[Any]
    check: Callable[[Any], None]


def targets(tiny: World, net: World) -> list[Target]:
    """All five."""
    return [pipelines_yaml(tiny), reports(tiny), records(tiny), indexes(net), workers(tiny)]


def pipelines_yaml(world: World) -> Target:
    """The YAML: only looked at, since a YAML may say to write anywhere."""
    document = yaml.safe_load((world.base / "pipelines.yaml").read_text())
    full = yaml.safe_load((Path(__file__).parents[2] / "pipelines.yaml").read_text())
    text = yaml_documents(document, str(world.outside)) | yaml_documents(full, str(world.outside))
    commands = st.sampled_from([("validate",), ("validate", "--json"), *_LOOKING])

    def check(given: tuple[bytes, Command]) -> None:
        content, command = given
        with inside(world):
            world.restore()
            (world.project / "pipelines.yaml").write_bytes(content)
            world.call(*_named(command, world))

    return Target("pipelines.yaml", st.tuples(text, commands), check)


def reports(world: World) -> Target:
    """report.json and request.json of every step."""
    names = world.documents("*/*/[!.]*/report.json", "*/*/[!.]*/request.json")
    commands = [*_LOOKING, *_CHANGING] * 3 + _RUNNING
    return _stored("report.json", world, names, commands)


def records(world: World) -> Target:
    """run.json, the records of promotions, and promoted.json."""
    names = world.documents("*/runs/*/run.json", "*/promotions/*.json", "*/promoted.json")
    return _stored("run.json", world, names, [*_LOOKING, *_CHANGING, *_CHANGING] * 2 + _RUNNING)


def indexes(world: World) -> Target:
    """Index files, and the sidecars that remember digests."""
    names = world.documents("*/*/index/*.jsonl", ".sources/*.json", "*/*/[!.]*/.verified")
    return _stored("index", world, names, [("plan", "--json"), ("gc",)] * 6 + _RUNNING)


def _stored(title: str, world: World, names: list[str], commands: list[Command]) -> Target:
    """Documents of the store; one in a few comes with a link that leads out of it."""
    assert names
    link = st.sampled_from([*_LINKS, *[""] * 10])
    given = st.sampled_from(names).flatmap(
        lambda name: st.tuples(st.just(name), _content(world, name), st.sampled_from(commands), link)
    )

    def check(drawn: tuple[str, bytes, Command, str]) -> None:
        name, content, command, linked = drawn
        with inside(world):
            world.restore()
            world.put(name, content)
            if linked:
                (world.store / linked.format(name=world.name)).symlink_to(world.outside)
            world.call(*_named(command, world))

    return Target(title, given, check)


def _content(world: World, name: str) -> st.SearchStrategy[bytes]:
    if name.endswith(".jsonl"):
        lines = (world.pristine / name).read_text().split("\n")
        return line_documents([yaml.safe_load(line) for line in lines if line], str(world.outside))
    return documents(world.read(name), str(world.outside), json_text)


def _named(command: Command, world: World) -> Command:
    return tuple(word.format(name=world.name, outside=world.outside) for word in command)


def workers(world: World) -> Target:
    """What a worker may say to its parent, and what a parent may say to a worker."""
    text = Text(text="hello", number=0.5)
    failure = Failure(kind="StepError", message="failed", cure="do", detail="trace")
    answers = [Done(reply=text.model_dump(mode="json")), Failed(error=failure)]
    request = Request(function="tasks.runtimes.selftest:echo", request=text.model_dump(mode="json"), scratch=None)
    outside = str(world.outside)
    frames = st.one_of([documents(each.model_dump(mode="json"), outside, _line) for each in answers])
    endings = documents(Ended(status=9, peak_rss_bytes=1).model_dump(mode="json"), outside, _line) | st.just(b"")
    requests = documents(request.model_dump(mode="json"), outside, _line)
    heard = st.tuples(st.just("answer"), frames, endings)
    asked = st.tuples(st.just("request"), st.lists(requests, max_size=3).map(b"".join), st.just(b""))
    started = st.tuples(st.just("start"), frames, st.just(b""))
    _write_interpreter(world.base)

    def check(drawn: tuple[str, bytes, bytes]) -> None:
        kind, said, ending = drawn
        with inside(world), time_limit(drawn):
            if kind == "answer":
                _hear(said, ending)
            elif kind == "request":
                _answer(said)
            else:
                _start(world.base, said)

    return Target("workers", st.one_of(heard, asked, heard, asked, started), check)


def _write_interpreter(base: Path) -> None:
    """What is started as an interpreter, and sends the file `said` in place of a worker's first message."""
    path = base / "interpreter"
    send = f"os.write(int(sys.argv[4]), open({str(base / 'said')!r}, 'rb').read())"
    path.write_text(f"#!{sys.executable} -IS\nimport os, sys\n{send}\n")
    path.chmod(0o755)


def _line(document: object) -> str:
    return json_text(document).replace("\n", "") + "\n"


def _hear(said: bytes, ending: bytes) -> None:
    """The parent asks a worker that says this and ends like that."""
    connection, far = socket.socketpair()
    lifeline, far_lifeline = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = Process(_TASK, connection, lifeline, os.memfd_create("fuzz"))

    def speak() -> None:
        with far, far_lifeline, contextlib.suppress(OSError):  # the parent need not hear all of it
            far.sendall(said)
            if ending:
                far_lifeline.send(ending)

    speaker = threading.Thread(target=speak)
    speaker.start()
    try:
        assert isinstance(process.ask(Text()), Text)
        process.finish_well()
    except TrtflowError:
        pass
    finally:
        process.sever()
        speaker.join()
        process.stop()
        process.close()


def _start(base: Path, said: bytes) -> None:
    """The parent starts an interpreter whose first message is this."""
    (base / "said").write_bytes(said)
    zygote = Zygote(str(base / "interpreter"), (), _SECONDS)
    try:
        worker = zygote.fork(_TASK)
        try:
            worker.ask(Text())
        finally:
            worker.stop()
            worker.close()
    except TrtflowError:
        pass
    else:
        pytest.fail("what is no worker gave an answer")
    finally:
        zygote.stop()
        zygote.close()


def _answer(said: bytes) -> None:
    """A worker gets these requests: each line has an answer, and each answer is one that the parent can read."""
    if any(_leads_away(line) for line in said.split(b"\n")):
        return  # a parent may name any folder, and it is then made: here that must not be just anywhere
    near, far = socket.socketpair()
    answers = bytearray()

    def listen() -> None:
        while chunk := near.recv(65536):
            answers.extend(chunk)

    near.sendall(said)
    near.shutdown(socket.SHUT_WR)
    listener = threading.Thread(target=listen)
    listener.start()
    with far, contextlib.redirect_stdout(io.StringIO()):
        Answerer(far).serve()
    listener.join()
    near.close()
    lines = bytes(answers).splitlines()
    assert len(lines) == len(said.split(b"\n")) - said.endswith(b"\n") - (not said)
    for line in lines:
        decode_answer(line)


def _leads_away(line: bytes) -> bool:
    try:
        scratch = Request.model_validate_json(line).scratch
    except ValidationError:
        return False
    return scratch is not None and (Path(scratch).is_absolute() or ".." in scratch)
