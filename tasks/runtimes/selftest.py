"""Tiny functions that show that workers work, and how they fail; `trtflow doctor` runs `echo`."""

import ctypes
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Literal

from tasks.core.errors import ArtifactDamaged, ConfigError, UserCodeError, Where
from tasks.core.frozen import Frozen

CrashKind = Literal["segfault", "kill", "exit", "os_exit", "hang_up", "garbage", "cut_off", "flood"]
ErrorKind = Literal["config", "user", "damaged", "value", "memory", "disk_full", "sys_exit"]
_LONGEST_TALK = 3


class Text(Frozen):
    """Some text and, as numbers are where JSON is weak, one number."""

    text: str = ""
    number: float = 0.0


class Pause(Frozen):
    """How long to wait, and whether in native code that never looks at Python signals."""

    seconds: float
    native: bool = False
    child: bool = False


class Crash(Frozen):
    """How to lose the process."""

    kind: CrashKind


class Raise(Frozen):
    """Which error to raise."""

    kind: ErrorKind


class Place(Frozen):
    """What a worker sees of itself."""

    pid: int
    parent_pid: int
    python: str
    temporary_folder: str
    open_files: int


def echo(request: Text) -> Text:
    """Give back what came in, and print it: the print must not reach the terminal."""
    print("selftest prints", request.text)  # noqa: T201  the print is what is tested
    return request


def pause(request: Pause) -> Text:
    """Do nothing for a while."""
    if request.child:
        program = f"import time; time.sleep({request.seconds})"
        subprocess.Popen([sys.executable, "-c", program], start_new_session=True)  # noqa: S603  a constant program
    print("selftest pauses")  # noqa: T201  goes to the log
    if request.native:
        ctypes.PyDLL(None).sleep(int(request.seconds))  # PyDLL keeps the interpreter lock, as a busy native loop does
    else:
        time.sleep(request.seconds)
    return Text(text="awake")


def crash(request: Crash) -> Text:  # noqa: C901  one arm for each way
    """Lose the process."""
    print("selftest crashes")  # noqa: T201  goes to the log
    match request.kind:
        case "segfault":
            ctypes.string_at(0)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(0)
        case "os_exit":
            os._exit(7)
        case "hang_up":
            os.closerange(3, 1024)
            time.sleep(60)
        case "garbage":
            os.write(_connection(), b"{]\n")
        case "cut_off":
            os.write(_connection(), b'{"status": "do')
            os._exit(0)
        case "flood":
            while True:
                os.write(_connection(), bytes(1024 * 1024))
    return Text(text="still here")


def fail(request: Raise) -> Text:
    """Raise an error."""
    match request.kind:
        case "config":
            raise ConfigError("no such precision", "use fp16", Where("pipelines.yaml", 3, "pipelines.digits"))
        case "user":
            raise UserCodeError("the factory failed", "look at it") from ZeroDivisionError("by zero")
        case "damaged":
            raise ArtifactDamaged("model.onnx is cut off", "/store/digits")
        case _:
            _fail_plainly(request.kind)
    return Text(text="nothing failed")


def talk(request: Text) -> Generator[Text, Pause, None]:
    """Count what was sent; leave a file `closed` in the folder `text` when the conversation is closed."""
    count = 0
    try:
        while True:
            sent = yield Text(text=request.text, number=count)
            time.sleep(sent.seconds)
            count += 1
            if count == _LONGEST_TALK:
                return
    finally:
        if request.text:
            (Path(request.text) / "closed").touch()


def describe(_request: Text) -> Place:
    """Tell what the process looks like from inside."""
    open_files = len(list(Path("/proc/self/fd").iterdir()))
    return Place(
        pid=os.getpid(),
        parent_pid=os.getppid(),
        python=sys.executable,
        temporary_folder=tempfile.gettempdir(),
        open_files=open_files,
    )


def _connection() -> int:
    descriptors = (int(path.name) for path in Path("/proc/self/fd").iterdir() if path.exists())
    return next(number for number in descriptors if stat.S_ISSOCK(os.fstat(number).st_mode))


def _fail_plainly(kind: ErrorKind) -> None:
    if kind == "memory":
        raise MemoryError
    if kind == "disk_full":
        raise OSError(28, "No space left on device", "/scratch/model.onnx")
    if kind == "sys_exit":
        sys.exit("enough")
    try:
        int("many")
    except ValueError as error:
        raise RuntimeError("the loader gave up\nsecond line") from error
