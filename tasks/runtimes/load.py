"""Find a runtime by its name. A new runtime is one file, one name in `RuntimeName` and one arm here."""

import importlib.util
from typing import assert_never, get_args

from tasks.core.config_sections import RuntimeName
from tasks.core.errors import StepError
from tasks.runtimes.base import Runtime

# What a pipeline builds where it names no engines; the reference is a yardstick, never deployed.
DEPLOYABLE: tuple[RuntimeName, ...] = ("onnxruntime",)


def load_runtime(name: RuntimeName) -> Runtime:
    """Import what serves runtime `name`; the library itself is imported when it is first used."""
    match name:
        case "onnxruntime":
            from tasks.runtimes.onnxruntime import OnnxRuntime

            return OnnxRuntime()
        case "reference":
            from tasks.runtimes.reference import ReferenceRuntime

            return ReferenceRuntime()
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
    module = "onnx" if name == "reference" else name
    return importlib.util.find_spec(module) is not None


def distributions(name: RuntimeName) -> tuple[str, ...]:
    """Names of the distributions, where installed, whose versions an engine of runtime `name` depends on."""
    match name:
        case "onnxruntime":
            return ("onnxruntime", "onnxruntime-gpu")  # one module, from either
        case "reference":
            return ("onnx", "numpy")
        case _:
            assert_never(name)
