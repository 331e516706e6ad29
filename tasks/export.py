"""Step `export`: the source as model.onnx, and what the source framework itself computes."""

from pathlib import Path
from typing import assert_never

from pydantic import JsonValue

from tasks.context import Context, Files, Work, params
from tasks.core.config import OnnxModel, TorchModel
from tasks.core.onnx_path import onnx_file
from tasks.core.report import Artifact, Recipe
from tasks.core.sets import EVALUATION, GOLDEN
from tasks.core.signature import Signature
from tasks.core.store import Made
from tasks.homes import ONNX, TORCH, cast_homes
from tasks.sources.declared import declared_files, torch_source
from tasks.sources.external_files import flat_names
from tasks.sources.onnx_graph import ExportMetrics, ExportReply
from tasks.sources.onnx_import import OnnxImportRequest, import_onnx
from tasks.sources.torch_export import TorchExportRequest, export_torch
from tasks.step import StepOptions, step

OPTIONS = StepOptions("export", version=3, tags=("user-code",))
_TORCH_TOOLS = ("torch", "onnx", "onnxscript", "numpy", "safetensors")


@step(OPTIONS)
def export(context: Context, signature: Signature, data: Artifact, external: tuple[str, ...] = ()) -> Artifact:
    """Make model.onnx and what the source computes: on golden, on evaluation data, and over the declared range.

    `external` names the files beside an ONNX source that hold its weights.
    """
    match context.config.model:
        case TorchModel():
            return _from_torch(context, signature, data)
        case OnnxModel():
            return _from_onnx(context, signature, data, external)
        case other:
            assert_never(other)


def _recipe(context: Context, data: Artifact, tools: tuple[str, ...], external: tuple[str, ...] = ()) -> Recipe:
    recipe = context.recipe(OPTIONS, tools=tools)
    recipe = recipe.model_copy(update={"sources": declared_files(context, external)})
    return context.using(recipe, feeds=Files(data, (GOLDEN, EVALUATION)))


def _from_torch(context: Context, signature: Signature, data: Artifact) -> Artifact:
    config = context.config
    source = torch_source(context, signature)
    recipe = _recipe(context, data, _TORCH_TOOLS)
    recipe.params.update(
        signature=params(signature),
        export=params(config.export),
        factory=source.factory,
        outputs=list(source.outputs),
    )

    def make(folder: Path) -> Made:
        context.warm(ONNX)
        for home in cast_homes(config):  # its import takes as long as an export: let it go on beside this one
            context.warm(home)
        request = TorchExportRequest(
            source=source,
            signature=signature,
            opset=config.export.opset,
            exporter=config.export.exporter,
            golden=context.file(data, GOLDEN),
            evaluation=context.optional_file(data, EVALUATION),
            folder=folder,
        )
        reply = context.call(TORCH, export_torch, request, folder)
        return Made(_metrics(reply), reply.observed)

    return context.produce(Work(recipe, make, observing=True))


def _from_onnx(context: Context, signature: Signature, data: Artifact, external: tuple[str, ...]) -> Artifact:
    model = context.config.model
    assert isinstance(model, OnnxModel)  # noqa: S101 - the caller asks only where it is
    recipe = _recipe(context, data, ("onnx", "onnxruntime", "numpy", "safetensors"), external)
    recipe.params.update(signature=params(signature))
    source, homes = onnx_file(context.project / model.onnx), flat_names(external)

    def make(folder: Path) -> Made:
        for name, home in homes.items():
            context.take(source.parent / name, folder / home)
        request = OnnxImportRequest(
            model=source,
            homes=homes,
            golden=context.file(data, GOLDEN),
            evaluation=context.optional_file(data, EVALUATION),
            signature=signature,
            folder=folder,
        )
        reply = context.call(ONNX, import_onnx, request, folder)
        return Made(_metrics(reply))

    return context.produce(Work(recipe, make))


def _metrics(reply: ExportReply) -> dict[str, JsonValue]:
    return params(ExportMetrics.model_validate(reply.model_dump(exclude={"observed"})))
