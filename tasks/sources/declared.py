"""What the YAML itself says of a source: which files it names, and how its torch module is made."""

from pathlib import Path

from tasks.context import Context
from tasks.core.config import OnnxModel, TorchModel
from tasks.core.errors import ConfigError, UserCodeError, Where
from tasks.core.onnx_path import onnx_file
from tasks.core.signature import Signature
from tasks.sources.torch_module import TorchSource


def declared_files(context: Context, external: tuple[str, ...] = ()) -> dict[str, str]:
    """sha256 by path relative to the project, for a recipe's `sources`; `external` is named beside the ONNX file."""
    model = context.config.model
    main = model.onnx if isinstance(model, OnnxModel) else model.checkpoint
    paths = [onnx_file(context.project / main)] if main else []
    paths += [paths[0].parent / name for name in external]
    return _digests(paths, context) | extra_files(context)


def extra_files(context: Context) -> dict[str, str]:
    """sha256 of what `model.files` names: read by user code in a way that cannot be observed."""
    paths: list[Path] = []
    for pattern in context.config.model.files:
        found = sorted(path for path in context.project.glob(pattern) if path.is_file())
        if not found:
            raise ConfigError(
                f"no file matches {pattern!r}",
                "correct the pattern",
                Where(path=f"pipelines.{context.pipeline}.model.files"),
            )
        paths += found
    return _digests(paths, context)


def _digests(paths: list[Path], context: Context) -> dict[str, str]:
    return {context.store.names.name(path, context.pipeline): _digest(path, context) for path in paths}


def _digest(path: Path, context: Context) -> str:
    try:
        return context.store.sources.sha256(path)
    except OSError as error:  # it was there when the YAML was checked, or an ONNX file says that it is
        raise UserCodeError(f"{path} cannot be read: {error.strerror}", "put it back, or let it be read") from error


def torch_source(context: Context, signature: Signature) -> TorchSource:
    """Factory, checkpoint and names; only for a pipeline whose source is a torch module."""
    model = context.config.model
    assert isinstance(model, TorchModel)  # noqa: S101 - callers ask only where it is
    return TorchSource(
        project=context.project,
        factory=model.torch,
        checkpoint=context.project / model.checkpoint if model.checkpoint else None,
        inputs=tuple(signature.inputs),
        outputs=context.config.outputs,
    )
