"""Which libraries a kind of work needs: its worker is forked from a process that has imported them already."""

import importlib.util

from tasks.core.config import ModelConfig, OnnxModel, PipelineConfig
from tasks.runtimes.interpreters import Interpreter
from tasks.runtimes.isolate import Home

_NUMPY = ("numpy", "safetensors.numpy")
_USER = ("tasks.sources.collect", "tasks.sources.user_metric")
# Reading, folding, compiling and running ONNX graphs.
ONNX = Home(
    preload=(
        *_NUMPY,
        "onnx",
        "onnxruntime",
        "onnx_graphsurgeon",
        "tasks.sources.collect",
        "tasks.sources.onnx_fold",
        "tasks.sources.onnx_import",
        "tasks.sources.onnx_lower",
        "tasks.sources.onnx_prune",
        "tasks.sources.onnx_typed",
        "tasks.runtimes.engines",
        "tasks.runtimes.onnxruntime",
        "tasks.runtimes.judge",
        "tasks.runtimes.timing",
    )
)
# The user's own modules of a pipeline whose model is a torch module.
TORCH = Home(
    preload=(
        "torch",
        "torch.export",
        "torch.onnx",
        "onnxscript",
        "safetensors.torch",
        *_NUMPY,
        "tasks.sources.torch_export",
        "tasks.sources.torch_timing",
        *_USER,
    )
)
# The user's data sources, and all user modules of a pipeline whose model is an ONNX file: they may do without torch.
PLAIN = Home(preload=(*_NUMPY, *_USER))
# Drawing the charts of reports.
DRAWING = Home(preload=("numpy", "matplotlib.figure", "matplotlib.backends.backend_svg", "tasks.drawings.draw"))
# Casting and quantising with ModelOpt.
MODELOPT = Home(
    preload=(
        "modelopt.onnx.autocast",
        "modelopt.onnx.quantization",
        "tasks.sources.onnx_cast",
        "tasks.sources.onnx_quantize",
    )
)

_RUNNERS = ("tensorrt_lean", "tensorrt_dispatch")


def engine_home(place: Interpreter) -> Home:
    """Where engines are built, run and timed. What only opens engines needs no onnx: `_RUNNERS` are such modules."""
    if place.runtime in ("onnxruntime", "reference"):
        return ONNX
    graphs = () if place.module in _RUNNERS else ("onnx",)
    preload = (*_NUMPY, *graphs, place.module, "tasks.runtimes.engines", "tasks.runtimes.tensorrt")
    return Home(preload=preload, python=place.python)


def cast_homes(config: PipelineConfig) -> tuple[Home, ...]:
    """Where a precision of the pipeline is cast, if one is."""
    kinds = {"fp16"} if config.precisions is None else {precision.kind for precision in config.precisions}
    return (MODELOPT,) if kinds - {"fp32", "typed"} else ()


def user_home(model: ModelConfig) -> Home:
    """Where the user's own functions of a pipeline run; with no torch here, those that need none still do."""
    return PLAIN if isinstance(model, OnnxModel) or not torch_installed() else TORCH


def torch_installed() -> bool:
    """Whether torch is installed, found without importing it."""
    return importlib.util.find_spec("torch") is not None
