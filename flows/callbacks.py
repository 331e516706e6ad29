"""Callbacks that announce the checkpoint of a training when it ends: for PyTorch Lightning and for Hugging Face.

    from flows.callbacks import LightningCallback       # or: TransformersCallback

    Trainer(callbacks=[LightningCallback("digits")])

Each class is made when it is first asked for: importing this module imports neither library.
"""

import logging
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from flows.events import Retrained
from flows.hooks import Server, model_retrained
from tasks.core.errors import ConfigError, TrtflowError

if TYPE_CHECKING:
    LightningCallback: Any
    TransformersCallback: Any

log = logging.getLogger(__name__)
_WEIGHTS = "model.safetensors"


@dataclass
class Announcer:
    """Announces what a training left; `on_error="log"` keeps the training from ending by an error of that."""

    pipeline: str
    metadata: Mapping[str, str] | None = None
    server: Server | None = None
    on_error: Literal["raise", "log"] = "raise"
    sent: Retrained | None = None

    def announce(self, checkpoint: str | None, metadata: Mapping[str, object]) -> None:
        """Send it, with what is known of the training and what the user adds."""
        told = {key: str(value) for key, value in metadata.items() if value is not None}
        try:
            if not checkpoint:
                raise ConfigError("this training saved no checkpoint to announce", "have the trainer save them")
            told.update(self.metadata or {})
            self.sent = model_retrained(self.pipeline, checkpoint, metadata=told, server=self.server)
        except TrtflowError as error:
            if self.on_error == "raise":
                raise
            log.error("trtflow was not told of the checkpoint %s: %s", checkpoint, error)  # noqa: TRY400 - it says all


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a class, whose base is not known before
    makers = {"LightningCallback": _lightning, "TransformersCallback": _transformers}
    if name not in makers:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = makers[name]()
    made.__qualname__ = name  # as if it stood in this module: what trains in several processes sends it by its name
    globals()[name] = made
    return made


def _lightning() -> type:
    base: Any = _lightning_module().Callback

    class LightningCallback(base):  # type: ignore[misc]
        """Announces the best checkpoint that the trainer's ModelCheckpoint wrote, once the fit is done.

        Takes the arguments of Announcer.
        """

        def __init__(self, pipeline: str, **options: Any) -> None:  # noqa: ANN401 - those of Announcer
            super().__init__()
            self.announcer = Announcer(pipeline, **options)

        def on_fit_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ANN401 - Lightning's
            """From one process only; a trial run of a few batches saves nothing."""
            del pl_module
            if not trainer.is_global_zero or trainer.fast_dev_run:
                return
            saved = trainer.checkpoint_callback
            score = getattr(saved, "best_model_score", None)
            self.announcer.announce(
                getattr(saved, "best_model_path", None),
                {
                    "epoch": trainer.current_epoch,
                    "step": trainer.global_step,
                    "score": None if score is None else float(score),
                },
            )

    return LightningCallback


def _lightning_module() -> Any:  # noqa: ANN401 - a module of one of two names
    """Lightning is published under two names, whose classes are not each other's: the one in use is meant."""
    import importlib

    names = ("lightning.pytorch", "pytorch_lightning")
    used = [name for name in names if name in sys.modules]
    for name in (*used, *names):
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name not in (name, name.partition(".")[0]):
                raise
    raise ModuleNotFoundError("LightningCallback needs PyTorch Lightning: pip install lightning", name="lightning")


def _transformers() -> type:
    import transformers

    base: Any = transformers.TrainerCallback

    class TransformersCallback(base):  # type: ignore[misc]
        """Announces the best checkpoint, else the last one, once the training is done; `file` is its weights.

        Takes the arguments of Announcer.
        """

        def __init__(self, pipeline: str, *, file: str = _WEIGHTS, **options: Any) -> None:  # noqa: ANN401 - as above
            self.announcer = Announcer(pipeline, **options)
            self.file = file

        def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:  # noqa: ANN401
            """From one process only."""
            del control, more
            if state.is_world_process_zero:
                folder = state.best_model_checkpoint or _last_checkpoint(args.output_dir)
                known = {"epoch": state.epoch, "step": state.global_step, "score": state.best_metric}
                self.announcer.announce(str(Path(folder) / self.file) if folder else None, known)

    return TransformersCallback


def _last_checkpoint(output: str | None) -> Path | None:
    steps = [
        (int(path.name.removeprefix("checkpoint-")), path)
        for path in Path(output or ".").glob("checkpoint-*")
        if path.name.removeprefix("checkpoint-").isdecimal()
    ]
    return max(steps)[1] if steps else None
