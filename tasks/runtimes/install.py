"""How each TensorRT is installed: the lines that errors and `trtflow doctor` tell, in the checkout of trtflow."""

from typing import NamedTuple

from tasks.core.config_interpreters import Module

_EXTRA = "{python} -m pip install -c constraints.txt -c constraints/{extra}.txt -e '.[{extra}]'"
_RUNNER = (
    "{python} -m pip install -c constraints.txt -c constraints/{name}.txt {wheel} "
    "numpy safetensors pydantic nvidia-ml-py pycuda cuda-bindings"
)


class Generation(NamedTuple):
    """One TensorRT: what serves it, and how it is installed; `{python}` is the interpreter that is to hold it."""

    name: str
    module: Module
    line: str

    def install(self, python: str) -> str:
        """The line that installs it into that Python."""
        return self.line.replace("{python}", python)


def _extra(extra: str) -> str:
    return _EXTRA.replace("{extra}", extra)


def _runner(name: str, wheel: str) -> str:
    return _RUNNER.replace("{name}", name).replace("{wheel}", wheel)


GENERATIONS = (
    Generation("8.6", "tensorrt", _extra("tensorrt86")),
    Generation("10", "tensorrt", _extra("tensorrt10")),
    Generation("11", "tensorrt", _extra("tensorrt11")),
    Generation("RTX 1", "tensorrt_rtx", _extra("tensorrt-rtx")),
    Generation("10 lean", "tensorrt_lean", _runner("lean10", "tensorrt-lean-cu13")),
    Generation("11 lean", "tensorrt_lean", _runner("lean11", "tensorrt-lean-cu13")),
    Generation("10 dispatch", "tensorrt_dispatch", _runner("lean10", "tensorrt-dispatch-cu13")),
    Generation("11 dispatch", "tensorrt_dispatch", _runner("lean11", "tensorrt-dispatch-cu13")),
)


def install_line(module: str, python: str = "python") -> str:
    """What installs a module, one line for each generation that has it."""
    lines = [f"{each.name}: {each.install(python)}" for each in GENERATIONS if each.module == module]
    return f"install one of TensorRT {'; '.join(lines)}" if len(lines) > 1 else "".join(lines).partition(": ")[2]
