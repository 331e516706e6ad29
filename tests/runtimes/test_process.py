"""The life of worker processes: how they start, how they end, and that nothing outlives a run, however that ends."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import uuid
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tasks.core.errors import WorkerError
from tasks.runtimes.isolate import Home, Workers
from tasks.runtimes.process import _ended, _limit_log, _log_tail
from tasks.runtimes.selftest import Pause, Text, describe, echo, pause, talk

pytestmark = pytest.mark.usefixtures("own_zygotes")
HOME = Home(preload=("tasks.runtimes.selftest",))
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(timeout_seconds=60) as shared:
        yield shared


@pytest.fixture
def token(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Mark every process that this test starts, however deep; what a killed zygote could not end is ended here."""
    value = f"TRTFLOW_TEST={uuid.uuid4()}"
    monkeypatch.setenv(*value.split("="))
    yield value
    for pid in marked(value):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def marked(token: str) -> list[int]:
    """List the living processes, zombies included, that were started with the token; not this one."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if token.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:  # gone since it was listed
                continue
    return found


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def children() -> str:
    return "".join(path.read_text() for path in Path("/proc/self/task").glob("*/children"))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("native", [False, True])
def test_a_call_that_hangs_is_stopped(native: bool, token: str) -> None:
    with Workers(timeout_seconds=60) as workers:
        workers.call(HOME, echo, Text())
        workers.timeout_seconds = 1
        start = time.monotonic()
        with pytest.raises(WorkerError, match="gave no answer within 1 s; it was stopped") as caught:
            workers.call(HOME, pause, Pause(seconds=60, native=native, child=True))
        assert time.monotonic() - start < 3
        assert "selftest pauses" in caught.value.detail
        # Only the zygote is left: the worker had a child in a session of its own, and that is gone as well.
        assert wait_until(lambda: len(marked(token)) == 1, 5)
        workers.timeout_seconds = 60
        assert workers.call(HOME, echo, Text(text="next")).text == "next"


def blocked(workers: Workers, pool: ThreadPoolExecutor, started: Path) -> "list[Future[Text]]":
    futures = [
        pool.submit(workers.call, HOME, pause, Pause(seconds=60, child=True), started / str(n)) for n in range(3)
    ]
    assert wait_until(lambda: len(list(started.iterdir())) == 3, 30)
    return futures


def test_close_ends_blocked_calls_at_once(token: str, tmp_path: Path) -> None:
    before, files = children(), open_files()
    workers = Workers(timeout_seconds=60)
    with ThreadPoolExecutor(3) as pool:
        futures = blocked(workers, pool, tmp_path)
        idle = workers.converse(HOME, talk, Text())
        start = time.monotonic()
        workers.close()
        assert all("run ended" in str(future.exception()) for future in futures)
        assert time.monotonic() - start < 1
    assert marked(token) == []
    assert children() == before
    with pytest.raises(WorkerError, match="run ended"):
        idle.send(Pause(seconds=0))
    with pytest.raises(WorkerError, match="run ended"):
        idle.__exit__(None, None, None)
    with pytest.raises(WorkerError, match="run ended"):
        workers.call(HOME, echo, Text())
    workers.close()
    assert open_files() == files


def test_an_import_is_ended_and_what_was_imported_stays(
    token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = importable(tmp_path, monkeypatch, "import time; time.sleep(600)")
    with Workers(timeout_seconds=60) as workers:
        before = workers.call(HOME, describe, Text()).parent_pid
        workers.warm(endless)
        workers.end_imports(keep=(endless,))
        assert len(marked(token)) == 2
        workers.end_imports(keep=())
        assert marked(token) == [before]
        assert workers.call(HOME, describe, Text()).parent_pid == before


def test_close_does_not_need_the_zygote(token: str, tmp_path: Path) -> None:
    workers = Workers(timeout_seconds=60)
    with ThreadPoolExecutor(3) as pool:
        futures = blocked(workers, pool, tmp_path)
        os.kill(int(children().split()[-1]), signal.SIGSTOP)
        threading.Thread(target=workers.close).start()
        start = time.monotonic()
        assert all("run ended" in str(future.exception()) for future in futures)
        assert time.monotonic() - start < 1
    assert wait_until(lambda: not python_workers(token), 5)


def python_workers(token: str) -> list[int]:
    return [pid for pid in marked(token) if b"tasks.runtimes.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_a_zygote_that_was_killed_is_replaced(token: str, tmp_path: Path) -> None:
    with Workers(timeout_seconds=60) as workers, ThreadPoolExecutor(3) as pool:
        futures = blocked(workers, pool, tmp_path)
        os.kill(int(children().split()[-1]), signal.SIGKILL)
        assert all("lost together with" in str(future.exception()) for future in futures)
        assert workers.call(HOME, echo, Text(text="again")).text == "again"
    assert wait_until(lambda: not python_workers(token), 1)


def test_close_while_modules_are_imported(token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = importable(tmp_path, monkeypatch, "import time; time.sleep(60)")
    workers = Workers(timeout_seconds=60)
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(workers.call, slow, echo, Text()) for _ in range(2)]
        assert wait_until(lambda: len(marked(token)) == 1, 5)
        start = time.monotonic()
        workers.close()
        assert all("run ended" in str(future.exception()) for future in futures)
        assert time.monotonic() - start < 1
    assert marked(token) == []


def importable(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> Home:
    (folder / "to_preload.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return Home(preload=("to_preload",))


def test_a_module_that_is_missing_is_named(workers: Workers) -> None:
    for _ in range(2):
        with pytest.raises(WorkerError, match="cannot import 'onnx_nowhere': ModuleNotFoundError") as caught:
            workers.call(Home(preload=("json", "onnx_nowhere")), echo, Text())
        assert caught.value.cure == f"install it there: {sys.executable} -m pip install onnx-nowhere"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "raise OSError('libnvinfer.so.10 is missing')",
            "cannot import 'to_preload': OSError: libnvinfer.so.10 is missing",
        ),
        ("raise SystemExit(3)", "cannot import 'to_preload': SystemExit: 3"),
        ("import ctypes; ctypes.string_at(0)", "was killed by SIGSEGV while it imported its modules"),
        ("import os; os._exit(9)", "cannot run workers: exit code 9"),
        ("import time; time.sleep(60)", "did not import to_preload within 2 s"),
    ],
)
def test_a_module_that_breaks_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    home = importable(tmp_path, monkeypatch, source)
    with Workers(timeout_seconds=2 if "sleep" in source else 60) as workers:
        workers.warm(home)
        with pytest.raises(WorkerError) as caught:
            workers.call(home, echo, Text())
    assert words in caught.value.message


def test_an_interpreter_that_is_missing_is_named(workers: Workers, tmp_path: Path) -> None:
    home = Home(python=str(tmp_path / "bin" / "python"))
    workers.warm(home)
    with pytest.raises(WorkerError, match=f"the interpreter {home.python} cannot be started: No such file"):
        workers.call(home, echo, Text())


def test_an_interpreter_without_pydantic_says_what_to_install(workers: Workers, tmp_path: Path) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    home = Home(preload=("numpy",), python=str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(WorkerError, match="No module named 'pydantic'") as caught:
        workers.call(home, echo, Text())
    assert caught.value.cure.endswith(f"{home.python} -m pip install pydantic numpy")


def test_a_module_of_the_current_folder_does_not_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tasks.py").write_text("raise RuntimeError('the wrong tasks')")
    monkeypatch.chdir(tmp_path)
    with Workers(timeout_seconds=60) as workers:
        assert workers.call(HOME, echo, Text(text="right")).text == "right"


def start_script(source: str, folder: Path) -> "subprocess.Popen[str]":
    """Run a program that uses workers, in a process group of its own."""
    head = """
        import os, signal, sys
        from pathlib import Path
        from tasks.runtimes.isolate import Home, Workers
        from tasks.runtimes.selftest import Pause, pause
    """
    (folder / "program.py").write_text(textwrap.dedent(head) + textwrap.dedent(source))
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"}
    command = [sys.executable, "program.py", str(folder / "scratch")]
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        text=True,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("preload", ["json", "to_preload"])
def test_nothing_outlives_a_parent_that_was_killed(token: str, tmp_path: Path, preload: str) -> None:
    (tmp_path / "to_preload.py").write_text(
        "from pathlib import Path; Path('scratch').touch(); import time; time.sleep(60)"
    )
    source = f"""
        with Workers() as workers:
            workers.call(Home(preload=("{preload}",)), pause, Pause(seconds=60, child=True), Path(sys.argv[1]))
    """
    with start_script(source, tmp_path) as program:
        expected = 4 if preload == "json" else 2  # the parent, its zygote; if that is ready: a worker, and its child
        assert wait_until(lambda: (tmp_path / "scratch").exists() and len(marked(token)) == expected, 30)
        program.kill()
    assert wait_until(lambda: marked(token) == [], 1.5)


def test_ctrl_c_does_not_end_a_worker_by_itself(token: str, tmp_path: Path) -> None:
    source = """
        signal.signal(signal.SIGINT, lambda *_: print("noted", flush=True))
        with Workers() as workers:
            print(workers.call(Home(), pause, Pause(seconds=1), Path(sys.argv[1])).text)
    """
    with start_script(source, tmp_path) as program:
        assert wait_until(lambda: len(marked(token)) == 2, 30)
        os.killpg(program.pid, signal.SIGINT)  # the zygote has just been started
        assert wait_until((tmp_path / "scratch").exists, 30)
        os.killpg(program.pid, signal.SIGINT)
        assert program.communicate(timeout=30) == ("noted\nnoted\nawake\n", "")


def test_an_interrupted_call_ends_its_worker(token: str, tmp_path: Path) -> None:
    source = """
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background inherits SIG_IGN
        try:
            with Workers() as workers:
                workers.call(Home(), pause, Pause(seconds=60, child=True), Path(sys.argv[1]))
        except KeyboardInterrupt:
            print("interrupted", flush=True)
    """
    with start_script(source, tmp_path) as program:
        assert wait_until(lambda: (tmp_path / "scratch").exists() and len(marked(token)) == 4, 30)
        os.killpg(program.pid, signal.SIGINT)
        assert program.communicate(timeout=3) == ("interrupted\n", "")
    assert marked(token) == []


def test_an_endless_log_does_not_fill_the_memory() -> None:
    log = os.memfd_create("log")
    for _ in range(66):
        os.write(log, b"x" * 1024 * 1024)
        _limit_log(log)
    os.write(log, b"the end")
    assert os.fstat(log).st_blocks * 512 < 4 * 1024 * 1024
    assert _log_tail(log).endswith("the end")
    os.close(log)


@pytest.mark.parametrize("message", [b"{", b"\xff", b'{"status": 127}', b'{"status": 1e30}', b'{"end": 1}'])
def test_an_ending_that_cannot_be_read_is_told(message: bytes) -> None:
    assert "how cannot be read" in _ended(message).reason
