"""Find a runtime by its name. A new runtime is one file, one name in `RuntimeName` and one arm here."""

import importlib.util
from typing import assert_never, get_args

from tasks.core.config_sections import RuntimeName
from tasks.core.environment import gpu
from tasks.core.errors import StepError
from tasks.runtimes.base import Runtime

# What a pipeline builds where it names no engines; the reference is a yardstick, never deployed.
DEPLOYABLE: tuple[RuntimeName, ...] = ("onnxruntime", "tensorrt", "tensorrt-rtx")
# What tells of its engines' layers, and what each of them takes.
LAYERED: tuple[RuntimeName, ...] = ("tensorrt", "tensorrt-rtx")
# TensorRT comes as one wheel, or as several of which the first only names the others.
_PARTS = ("-bindings", "-cu12", "-cu13", "-cu12-bindings", "-cu13-bindings")
# Runs the engines of a TensorRT, and is no part of it.
BY = "pycuda"
_MODULES: dict[RuntimeName, str] = {"reference": "onnx", "tensorrt-rtx": "tensorrt_rtx"}


def load_runtime(name: RuntimeName, module: str = "") -> Runtime:
    """Import what serves runtime `name`; the library itself, or `module` in its place, when it is first used."""
    match name:
        case "onnxruntime":
            from tasks.runtimes.onnxruntime import OnnxRuntime

            return OnnxRuntime()
        case "reference":
            from tasks.runtimes.reference import ReferenceRuntime

            return ReferenceRuntime()
        case "tensorrt":
            from tasks.runtimes.tensorrt import TensorRt, tensorrt_module

            return TensorRt("tensorrt", tensorrt_module(module or "tensorrt"))
        case "tensorrt-rtx":
            from tasks.runtimes.tensorrt import TensorRt

            return TensorRt("tensorrt-rtx", "tensorrt_rtx")
        case _:
            assert_never(name)


def runtime_name(name: str) -> RuntimeName:
    """Narrow a name read from a request or a card to one that is known here."""
    known: tuple[RuntimeName, ...] = get_args(RuntimeName)
    for candidate in known:
        if name == candidate:
            return candidate
    raise StepError(f"there is no runtime '{name}'", f"this version of trtflow has: {', '.join(known)}")


def installed(name: RuntimeName) -> bool:
    """Whether the library of runtime `name` is installed, found without importing it."""
    return importlib.util.find_spec(module_of(name)) is not None


def runs_here(name: RuntimeName) -> bool:
    """Whether this host has the device that runtime `name` needs to run."""
    return name in ("onnxruntime", "reference") or gpu() is not None


def offline(name: RuntimeName) -> bool:
    """Whether runtime `name` builds where its device is not."""
    return name != "tensorrt"


def module_of(name: RuntimeName) -> str:
    """Name of the module that serves runtime `name`."""
    return _MODULES.get(name, name)


def distributions(name: RuntimeName, module: str = "") -> tuple[str, ...]:
    """Names of the distributions, where installed, whose versions an engine of runtime `name` depends on."""
    match name:
        case "onnxruntime":
            return ("onnxruntime", "onnxruntime-gpu")  # one module, from either
        case "reference":
            return ("onnx", "numpy")
        case "tensorrt":
            wheel = (module or "tensorrt").replace("_", "-")
            return (wheel, *(f"{wheel}{part}" for part in _PARTS), BY)
        case "tensorrt-rtx":
            return ("tensorrt-rtx-cu13", BY)
        case _:
            assert_never(name)
