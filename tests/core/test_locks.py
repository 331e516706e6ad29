"""Locks hold between real processes and threads, and die with who holds them."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tasks.core import locks
from tasks.core.errors import ConfigError, StepError
from tasks.core.locks import HostLock, Mode, file_lock, host_folder, try_file_lock
from tests.programs import PATIENCE_SECONDS, Program

HOLD = """
import sys, threading
from pathlib import Path
from tasks.core.locks import file_lock
with file_lock(Path(sys.argv[1]), threading.Event(), sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""
COUNT = """
import sys, threading
from pathlib import Path
from tasks.core.locks import file_lock
counter = Path(sys.argv[2])
for _ in range(int(sys.argv[3])):
    with file_lock(Path(sys.argv[1]), threading.Event()):
        counter.write_text(str(int(counter.read_text()) + 1))
"""
HOLD_HOST = """
import os, sys, threading
from pathlib import Path
from tasks.core.locks import HostLock
if len(sys.argv) > 3:
    os.setgid(int(sys.argv[3]))
    os.setuid(int(sys.argv[3]))
with HostLock(Path(sys.argv[1])).hold(sys.argv[2], threading.Event()):
    print("held", flush=True)
    sys.stdin.read()
"""
NOBODY = 65534


def never() -> threading.Event:
    return threading.Event()


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


def host_lock_is_free(folder: Path, mode: Mode) -> bool:
    """Try for a moment: there is no way to ask."""
    stop = threading.Event()
    threading.Timer(0.1, stop.set).start()
    try:
        with HostLock(folder).hold(mode, stop):
            return True
    except StepError:
        return False


def test_processes_and_threads_take_turns(tmp_path: Path) -> None:
    lock, counter = tmp_path / ".lock", tmp_path / "counter"
    counter.write_text("0")

    def count() -> None:
        for _ in range(50):
            with file_lock(lock, never()):
                counter.write_text(str(int(counter.read_text()) + 1))

    programs = [Program(COUNT, lock, counter, 50) for _ in range(3)]
    threads = [in_thread(count) for _ in range(3)]
    for thread in threads:
        thread.join()
    for program in programs:
        program.end()
    assert counter.read_text() == "300"
    assert not lock.exists()


def test_lock_dies_with_its_holder_and_leaves_no_file(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    holder = Program(HOLD, lock, "exclusive")
    assert holder.said() == "held"
    assert try_file_lock(lock) is None
    holder.kill()
    with file_lock(lock, never()):
        assert lock.exists()
    assert not lock.exists()


def test_waiting_ends_when_the_run_is_stopped(tmp_path: Path) -> None:
    lock, stop = tmp_path / ".lock", threading.Event()
    with file_lock(lock, never()):
        stop.set()
        with pytest.raises(StepError, match="stopped while it waited"), file_lock(lock, stop):
            pass
    assert not lock.exists()


@pytest.mark.parametrize("stopped", [True, False])
def test_long_wait_names_who_is_waited_for(
    tmp_path: Path, stopped: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "_PATIENCE_SECONDS", 0.05)
    lock, stop = tmp_path / ".lock", threading.Event()
    holder = Program(HOLD, lock, "exclusive")
    assert holder.said() == "held"
    if stopped:
        holder.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, holder.process.pid, os.WSTOPPED | os.WNOWAIT)
    threading.Timer(0.5, stop.set).start()
    with pytest.raises(StepError), file_lock(lock, stop):
        pass
    holder.kill()
    (told,) = [record.getMessage() for record in caplog.records if str(holder.process.pid) in record.getMessage()]
    assert told.startswith(f"waiting for process {holder.process.pid}, another run of trtflow")
    assert (f"kill -CONT {holder.process.pid}" in told) is stopped


def test_lock_is_let_go_when_the_block_raises(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), file_lock(tmp_path / ".lock", never()):
        _ = 1 / 0
    assert not (tmp_path / ".lock").exists()


def test_lock_is_not_handed_on_to_a_child_process(tmp_path: Path) -> None:
    with file_lock(tmp_path / ".lock", never()):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        release = try_file_lock(tmp_path / ".lock")
        assert release is not None
        release()
    finally:
        child.kill()
        child.wait()


def test_sharers_hold_a_file_lock_together_and_the_last_removes_it(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    first, second = Program(HOLD, lock, "shared"), Program(HOLD, lock, "shared")
    assert (first.said(), second.said()) == ("held", "held")
    first.end()
    assert lock.exists()
    assert try_file_lock(lock) is None
    second.end()
    assert not lock.exists()


def test_host_lock_is_shared_by_steps(tmp_path: Path) -> None:
    programs = [Program(HOLD_HOST, tmp_path, "shared") for _ in range(3)]
    assert [program.said() for program in programs] == ["held"] * 3
    assert not host_lock_is_free(tmp_path, "exclusive")
    for program in programs:
        program.end()
    assert host_lock_is_free(tmp_path, "exclusive")


def test_benchmark_holds_the_host_lock_alone(tmp_path: Path) -> None:
    benchmark = Program(HOLD_HOST, tmp_path, "exclusive")
    assert benchmark.said() == "held"
    assert not host_lock_is_free(tmp_path, "shared")
    assert not host_lock_is_free(tmp_path, "exclusive")
    benchmark.kill()
    assert host_lock_is_free(tmp_path, "exclusive")


def test_host_lock_of_two_threads_of_one_process(tmp_path: Path) -> None:
    lock = HostLock(tmp_path)
    with lock.hold("shared", never()):
        assert host_lock_is_free(tmp_path, "shared")
        assert not host_lock_is_free(tmp_path, "exclusive")


def test_waiting_benchmark_goes_before_steps_that_come_later(tmp_path: Path) -> None:
    order: list[str] = []

    def benchmark() -> None:
        with HostLock(tmp_path).hold("exclusive", never()):
            order.append("benchmark")

    def step() -> None:
        with HostLock(tmp_path).hold("shared", never()):
            order.append("step")

    with HostLock(tmp_path).hold("shared", never()):
        waiting = in_thread(benchmark)
        while host_lock_is_free(tmp_path, "shared"):  # until the benchmark has closed the turnstile
            time.sleep(0.01)
        late = in_thread(step)
        late.join(0.2)
        assert order == []
    waiting.join(PATIENCE_SECONDS)
    late.join(PATIENCE_SECONDS)
    assert order == ["benchmark", "step"]


def test_benchmark_is_not_starved_by_steps_that_keep_coming(tmp_path: Path) -> None:
    done = threading.Event()

    def steps() -> None:
        while not done.is_set():
            with HostLock(tmp_path).hold("shared", never()):
                done.wait(0.05)

    # They overlap, so that there is always one at work.
    running = [in_thread(steps) for _ in range(4)]
    stop = threading.Event()
    alarm = threading.Timer(PATIENCE_SECONDS, stop.set)
    alarm.start()
    try:
        for _ in range(3):
            with HostLock(tmp_path).hold("exclusive", stop):
                pass
    finally:
        alarm.cancel()
        done.set()
        for thread in running:
            thread.join()


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to act as another user")
@pytest.mark.parametrize("owner", [0, NOBODY])
def test_host_lock_works_when_its_files_belong_to_another_user(tmp_path: Path, owner: int) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == os.getuid() and folder.name:
            folder.chmod(folder.stat().st_mode | 0o055)  # pytest's own are for its user alone
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)  # as /run/lock is: there the kernel refuses O_CREAT for a file of somebody else
    maker = Program(HOLD_HOST, shared, "exclusive", owner)
    assert maker.said() == "held"
    maker.end()
    assert {path.stat().st_uid for path in shared.iterdir()} == {owner}
    other = Program(HOLD_HOST, shared, "exclusive", NOBODY - owner)
    assert other.said() == "held"
    other.end()


def test_the_locks_of_the_host_are_where_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTFLOW_LOCKS", str(tmp_path))
    with HostLock().hold("shared", never()):
        assert not host_lock_is_free(tmp_path, "exclusive")
    monkeypatch.delenv("TRTFLOW_LOCKS")
    assert host_folder() != tmp_path
    for nowhere in ("absent", "file"):
        (tmp_path / "file").touch()
        monkeypatch.setenv("TRTFLOW_LOCKS", str(tmp_path / nowhere))
        with pytest.raises(ConfigError, match=r"TRTFLOW_LOCKS: .* is no folder that can be written to"):
            host_folder()
