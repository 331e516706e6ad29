"""How graphs are opened on ONNX Runtime: the settings that count, and where the weights lie."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import Field

from tasks.core.errors import StepError
from tasks.core.frozen import Frozen
from tasks.core.tensors import Tensors
from tasks.runtimes import base
from tasks.runtimes.onnxruntime_errors import plain_errors

if TYPE_CHECKING:
    import onnxruntime

Level = Literal["all", "extended", "basic", "disabled"]

DATA = f"{base.ENGINE}.data"
_LARGE_BYTES = 256 << 20
_ONLY_FATAL = 4  # what goes wrong is raised: onnxruntime need not print it too


class SessionSettings(Frozen):
    """How a session is made: everything that its speed and its outputs depend on, kept in the card.

    `data_bytes` is the size of the engine's own file of weights, `unchanged` those of the model's that it uses.
    """

    optimization: Level
    intra_op_num_threads: int
    inter_op_num_threads: int = 1
    allow_spinning: bool = True
    # Without it an idle session burns its cores: beside it, another engine of the same benchmark could not be timed.
    force_spinning_stop: bool = True
    providers: tuple[str, ...] = ("CPUExecutionProvider",)
    data_bytes: int = 0
    unchanged: dict[str, int] = Field(default_factory=dict)


def run_unoptimised(model: Path, batches: Sequence[Tensors]) -> list[Tensors]:
    """Run a typed graph exactly as it is written, on the CPU: what its optimised forms are judged by."""
    return run_batches(open_unoptimised(model), batches)


def open_unoptimised(model: Path, weights: Path | None = None) -> "onnxruntime.InferenceSession":
    """Open a graph on the CPU, to be run exactly as it is written; `weights` is another folder of external data."""
    settings = SessionSettings(optimization="disabled", intra_op_num_threads=base.physical_cores())
    size = sum(file.stat().st_size for file in (weights or model.parent).iterdir())
    return open_session(model, "disabled", quiet(settings), Weights(weights, packed=size < _LARGE_BYTES))


def quiet(settings: SessionSettings) -> SessionSettings:
    """Do not spin while waiting: nothing is timed, and another step's session wants the cores."""
    return settings.model_copy(update={"allow_spinning": False})


class Weights(NamedTuple):
    """Where external data lies if not beside the graph, and whether kernels may keep copies in an order of their own.

    Those make a session faster and twice as large, and round in another order: of a large model, one that is opened
    for a few runs does without.
    """

    folder: Path | None = None
    packed: bool = True


class Saving(NamedTuple):
    """Where an optimised graph is written, and whether its weights go into a file beside it."""

    engine: Path
    beside: bool


def open_session(
    path: Path,
    level: Level,
    settings: SessionSettings,
    weights: Weights = Weights(),  # noqa: B008 -- a frozen value
    saving: Saving | None = None,
) -> "onnxruntime.InferenceSession":
    """Open a graph, optimise it to a level, and write what that gave if it is to be saved."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = _ONLY_FATAL
    name = "ORT_DISABLE_ALL" if level == "disabled" else f"ORT_ENABLE_{level.upper()}"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, name)
    options.intra_op_num_threads = settings.intra_op_num_threads
    options.inter_op_num_threads = settings.inter_op_num_threads
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(settings.allow_spinning)))
    options.add_session_config_entry("session.force_spinning_stop", str(int(settings.force_spinning_stop)))
    if not weights.packed:
        options.add_session_config_entry("session.disable_prepacking", "1")
    if weights.folder:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(weights.folder))
    if saving:
        options.optimized_model_filepath = str(saving.engine)
    if saving and saving.beside:
        # Unless told so, onnxruntime leaves the names of the source model's weight files in the engine.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", DATA)
        options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
    # TF32 would round fp32 to eleven bits: precision is for the graph to say.
    of_provider = [{"use_tf32": "0"} if name == "CUDAExecutionProvider" else {} for name in settings.providers]
    with plain_errors(f"opening {path.name}"):
        # Only of bytes may the weights lie in another folder.
        graph = path.read_bytes() if weights.folder else str(path)
        session = onnxruntime.InferenceSession(graph, options, list(settings.providers), of_provider, enable_fallback=0)
    # A CUDA provider whose libraries do not load is left out with no more than a warning.
    if session.get_providers() != list(settings.providers):
        raise StepError(
            f"onnxruntime opened {path.name} with {session.get_providers()}, not with {list(settings.providers)}",
            "check that its CUDA and cuDNN libraries are installed, or set `device: cpu`",
        )
    return session


def run_batches(session: "onnxruntime.InferenceSession", batches: Sequence[Tensors]) -> list[Tensors]:
    """Run every batch, and name the outputs."""
    names = [output.name for output in session.get_outputs()]
    with plain_errors("running the graph"):
        return [dict(zip(names, session.run(names, feeds), strict=True)) for feeds in batches]
