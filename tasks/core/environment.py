"""What a result depends on beside its inputs: this host and the packages installed here."""

import functools
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from pathlib import Path

from tasks.core.frozen import Frozen

_PACKAGES = (
    "numpy",
    "nvidia-modelopt",
    "onnx",
    "onnx-graphsurgeon",
    "onnxruntime",
    "onnxscript",
    "polygraphy",
    "prefect",
    "safetensors",
    "tensorrt",
    "torch",
    "trtflow",
)
_VERSION = re.compile(r"""^__version__\s*=\s*["']([^"']+)["']""", re.MULTILINE)


class Environment(Frozen):
    """The host and the versions under which an artifact was made."""

    os: str
    python: str
    cpu: str
    cores: int
    gpu: str | None
    driver: str | None
    packages: dict[str, str]


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions_of(distributions: tuple[str, ...]) -> dict[str, str]:
    """Versions of those distributions that are installed, for an artifact's key."""
    found = {name: version_of(name) for name in distributions}
    return {name: version for name, version in found.items() if version is not None}


def version_said_by(module: str) -> str | None:
    """Version that a module which no distribution brought says of itself, read from its source without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    found = _VERSION.search(Path(spec.origin).read_text(encoding="utf-8"))
    return found[1] if found else None


@functools.cache
def cpu_model() -> str:
    """The processor's name as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0))


@functools.cache
def gpu() -> tuple[str, str] | None:
    """Name of the first NVIDIA GPU and its driver's version, or None."""
    if not Path("/proc/driver/nvidia/version").exists():  # do not load NVML where there is no driver
        return None
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0))), str(
            pynvml.nvmlSystemGetDriverVersion()
        )
    finally:
        pynvml.nvmlShutdown()


def cpu_host() -> dict[str, str]:
    """What binds a CPU engine, or a CPU measurement, to this host."""
    return {"cpu": cpu_model(), "cores": str(cores()), "machine": platform.machine()}


def gpu_host() -> dict[str, str]:
    """What binds a GPU engine, or a GPU measurement, to this host: empty where there is no GPU."""
    found = gpu()
    return {"gpu": found[0], "driver": found[1]} if found else {}


@functools.cache
def environment() -> Environment:
    """Describe this host; read once per process."""
    found = gpu()
    return Environment(
        os=platform.platform(),
        python=sys.version.split()[0],
        cpu=cpu_model(),
        cores=cores(),
        gpu=found[0] if found else None,
        driver=found[1] if found else None,
        packages=versions_of(_PACKAGES),
    )
