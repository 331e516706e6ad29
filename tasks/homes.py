"""Which libraries a kind of work needs: its worker is forked from a process that has imported them already."""

from tasks.core.config import ModelConfig, OnnxModel
from tasks.runtimes.isolate import Home

_NUMPY = ("numpy", "safetensors.numpy")
_USER = ("tasks.data", "tasks.sources.user_metric")
# Reading, folding, compiling and running ONNX graphs.
ONNX = Home(
    preload=(
        *_NUMPY,
        "onnx",
        "onnxruntime",
        "onnx_graphsurgeon",
        "tasks.sources.onnx_fold",
        "tasks.sources.onnx_import",
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
# The user's own modules of a pipeline whose model is an ONNX file: they may do without torch.
PLAIN = Home(preload=(*_NUMPY, *_USER))
# Casting and quantising with ModelOpt.
MODELOPT = Home(preload=("modelopt.onnx.autocast", "tasks.sources.onnx_cast"))


def user_home(model: ModelConfig) -> Home:
    """Where the user's own functions of a pipeline run."""
    return PLAIN if isinstance(model, OnnxModel) else TORCH
