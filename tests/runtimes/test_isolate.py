"""Worker processes: what is promised about them holds with real processes, real signals and real crashes."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import pytest

from tasks.core import errors
from tasks.core.errors import ArtifactDamaged, ConfigError, StepError, TrtflowError, UserCodeError, Where, WorkerError
from tasks.runtimes import selftest
from tasks.runtimes.isolate import Home, Workers
from tasks.runtimes.protocol import Kind, error_of, failure_of, resolve
from tasks.runtimes.selftest import Crash, ErrorKind, Pause, Raise, Text, crash, describe, echo, fail, talk

pytestmark = pytest.mark.usefixtures("own_zygotes")
HOME = Home(preload=("tasks.runtimes.selftest",))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(timeout_seconds=60) as shared:
        yield shared


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_call_gives_back_the_reply_of_another_process(workers: Workers) -> None:
    assert workers.call(HOME, echo, Text(text="häß\nlich", number=0.1)) == Text(text="häß\nlich", number=0.1)
    assert workers.call(HOME, describe, Text()).pid != os.getpid()


def test_a_number_that_json_does_not_have_survives(workers: Workers) -> None:
    assert workers.call(HOME, echo, Text(number=float("-inf"))).number == float("-inf")
    assert str(workers.call(HOME, echo, Text(number=float("nan"))).number) == "nan"


def test_a_large_request_and_reply_fit(workers: Workers) -> None:
    assert workers.call(HOME, echo, Text(text="x" * 5_000_000)).text == "x" * 5_000_000


def test_each_call_has_a_process_of_its_own_from_one_zygote(workers: Workers) -> None:
    places = [workers.call(HOME, describe, Text()) for _ in range(3)]
    assert len({place.pid for place in places}) == 3
    assert len({place.parent_pid for place in places}) == 1


def test_a_worker_holds_nothing_but_its_own_descriptors(workers: Workers) -> None:
    with workers.converse(HOME, talk, Text()):
        # Standard input, output and error, the connection, and the folder that is being listed.
        assert workers.call(HOME, describe, Text()).open_files == 5


def test_a_conversation_keeps_state_and_cleans_up(workers: Workers, tmp_path: Path) -> None:
    with workers.converse(HOME, talk, Text(text=str(tmp_path))) as conversation:
        assert conversation.first.number == 0
        assert [conversation.send(Pause(seconds=0)).number for _ in range(2)] == [1, 2]
        assert not (tmp_path / "closed").exists()
    assert (tmp_path / "closed").exists()


def test_a_conversation_cleans_up_after_an_error_of_the_caller(workers: Workers, tmp_path: Path) -> None:
    with pytest.raises(KeyError, match="mine"), workers.converse(HOME, talk, Text(text=str(tmp_path))):
        raise KeyError("mine")
    assert (tmp_path / "closed").exists()


def test_a_failing_clean_up_is_reported(workers: Workers, tmp_path: Path) -> None:
    conversation = workers.converse(HOME, talk, Text(text=str(tmp_path / "missing")))
    with pytest.raises(StepError, match="FileNotFoundError"), conversation:
        pass


def test_a_conversation_that_ended_says_so(workers: Workers) -> None:
    with workers.converse(HOME, talk, Text()) as conversation:
        for _ in range(2):
            conversation.send(Pause(seconds=0))
        with pytest.raises(StepError, match="talk ended the conversation instead of answering"):
            conversation.send(Pause(seconds=0))


def test_errors_keep_their_class_and_words(workers: Workers) -> None:
    with pytest.raises(ConfigError) as config:
        workers.call(HOME, fail, Raise(kind="config"))
    assert (config.value.message, config.value.cure) == ("no such precision", "use fp16")
    assert config.value.where == Where("pipelines.yaml", 3, "pipelines.digits")
    with pytest.raises(UserCodeError, match="the factory failed") as user:
        workers.call(HOME, fail, Raise(kind="user"))
    assert "ZeroDivisionError: by zero" in user.value.detail
    with pytest.raises(ArtifactDamaged) as damaged:
        workers.call(HOME, fail, Raise(kind="damaged"))
    assert damaged.value.folder == "/store/digits"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("value", "selftest:fail failed: ValueError: invalid literal for int() with base 10: 'many'"),
        ("memory", "selftest:fail ran out of memory"),
        ("disk_full", "selftest:fail failed: disk full (writing /scratch/model.onnx)"),
        ("sys_exit", "selftest:fail called sys.exit('enough')"),
    ],
)
def test_any_other_error_is_a_step_error_in_plain_words(workers: Workers, kind: ErrorKind, words: str) -> None:
    with pytest.raises(StepError) as caught:
        workers.call(HOME, fail, Raise(kind=kind))
    assert type(caught.value) is StepError
    assert caught.value.message == f"tasks.runtimes.{words}"
    assert "_fail_plainly" in caught.value.detail


def test_every_error_class_can_travel() -> None:
    classes = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    errors_of_ours = {name for name, value in classes.items() if issubclass(value, TrtflowError)}
    assert set(get_args(Kind)) == errors_of_ours
    for kind in get_args(Kind):
        sent = ArtifactDamaged("m", "f") if kind == "ArtifactDamaged" else classes[kind]("m", "c")
        assert (type(sent), str(sent)) == (type(error_of(failure_of(sent, "f"))), str(error_of(failure_of(sent, "f"))))


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("segfault", "was killed by SIGSEGV"),
        ("kill", "was killed by SIGKILL: most likely the system ran out of memory (it used "),
        ("exit", "exited with code 0 without an answer"),
        ("os_exit", "exited with code 7 without an answer"),
        ("hang_up", "closed its connection without an answer; it was stopped"),
        ("garbage", "gave an answer that is no Text"),
        ("cut_off", "exited with code 0 in the middle of an answer"),
        ("flood", "gave an answer of more than 67108864 bytes"),
    ],
)
def test_a_lost_worker_is_explained(workers: Workers, kind: selftest.CrashKind, words: str) -> None:
    with pytest.raises(WorkerError) as caught:
        workers.call(HOME, crash, Crash(kind=kind))
    assert caught.value.message.startswith(f"the worker of tasks.runtimes.selftest:crash {words}")
    assert "selftest crashes" in caught.value.detail


def test_a_segfault_shows_where_it_happened(workers: Workers) -> None:
    with pytest.raises(WorkerError) as caught:
        workers.call(HOME, crash, Crash(kind="segfault"))
    assert "selftest.py" in caught.value.detail


def test_a_send_that_hangs_is_stopped() -> None:
    with Workers(timeout_seconds=60) as workers:
        workers.call(HOME, echo, Text())
        workers.timeout_seconds = 1.5
        conversation = workers.converse(HOME, talk, Text())
        assert conversation.send(Pause(seconds=0.8)).number == 1
        assert conversation.send(Pause(seconds=0.8)).number == 2
        with pytest.raises(WorkerError, match=r"gave no answer within 1\.5 s"), conversation:
            conversation.send(Pause(seconds=60))


def test_what_a_worker_prints_does_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with Workers(timeout_seconds=60) as workers:
        workers.call(HOME, echo, Text(text="x" * 100_000))
        with pytest.raises(WorkerError):
            workers.call(HOME, crash, Crash(kind="segfault"))
    assert capfd.readouterr() == ("", "")


def test_scratch_becomes_the_temporary_folder(workers: Workers, tmp_path: Path) -> None:
    scratch = tmp_path / "made" / "on demand"
    assert workers.call(HOME, describe, Text(), scratch).temporary_folder == str(scratch)
    assert scratch.is_dir()
    assert workers.call(HOME, describe, Text()).temporary_folder != str(scratch)


def test_only_functions_under_tasks_run(workers: Workers) -> None:
    with pytest.raises(WorkerError, match="a worker does not run"):
        workers.call(HOME, foreign, Text())
    with pytest.raises(WorkerError, match="a worker does not run 'os:_exit'"):
        resolve("os:_exit")
    with pytest.raises(WorkerError, match="no top-level function of its module"):
        resolve("tasks.runtimes.selftest:sys.exit")


def foreign(request: Text) -> Text:
    return request


def test_calls_from_many_threads(workers: Workers) -> None:
    with ThreadPoolExecutor(8) as pool:
        replies = pool.map(lambda number: workers.call(HOME, echo, Text(number=number)).number, range(30))
        assert list(replies) == list(range(30))


def test_calls_leak_no_descriptor(workers: Workers) -> None:
    workers.call(HOME, echo, Text())
    before = open_files()
    for _ in range(25):
        workers.call(HOME, echo, Text())
        with pytest.raises(ConfigError):
            workers.call(HOME, fail, Raise(kind="config"))
    assert open_files() == before
