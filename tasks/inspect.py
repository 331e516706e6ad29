"""Step `inspect`: what an ONNX source takes; a torch source says so in the YAML."""

from pathlib import Path

from tasks.context import Context, Work, params
from tasks.core.config import OnnxModel, PipelineConfig
from tasks.core.config_checks import point_problems
from tasks.core.errors import ConfigError, Where
from tasks.core.onnx_path import onnx_file
from tasks.core.report import Artifact
from tasks.core.signature import InputSpec, Signature
from tasks.core.store import Made
from tasks.core.yaml_source import dotted
from tasks.homes import ONNX
from tasks.sources.declared import declared_files
from tasks.sources.onnx_graph import GraphFacts
from tasks.sources.onnx_import import InspectRequest, inspect_onnx
from tasks.step import StepOptions, step

OPTIONS = StepOptions("inspect", version=2)


@step(OPTIONS)
def inspect_source(context: Context) -> Artifact:
    """Check the ONNX file and note its inputs, outputs, opset and operators."""
    model = context.config.model
    assert isinstance(model, OnnxModel)  # noqa: S101 - the flow submits this step for ONNX sources only
    sources = declared_files(context)
    recipe = context.recipe(OPTIONS, tools=("onnx",)).model_copy(update={"sources": sources})

    def make(folder: Path) -> Made:
        request = InspectRequest(model=onnx_file(context.project / model.onnx))
        return Made(params(context.call(ONNX, inspect_onnx, request, folder)))

    return context.produce(Work(recipe, make))


def signature_of(name: str, config: PipelineConfig, facts: GraphFacts | None) -> Signature:
    """What the model takes, from the YAML and, for an ONNX source, from its graph; raise ConfigError on a conflict."""
    if facts is None:
        return Signature(inputs=config.inputs or {}, dims=config.dims)
    place = f"pipelines.{name}"
    declared = config.inputs or {}
    _check_declared(facts, declared, place)
    ranges = {key: spec.range for key, spec in declared.items()}
    inputs = {
        key: InputSpec.model_validate({"dtype": tensor.dtype, "shape": tensor.shape, "range": ranges.get(key)})
        for key, tensor in facts.inputs.items()
    }
    dims = sorted({dim for spec in inputs.values() for dim in spec.shape if isinstance(dim, str)})
    missing = [dim for dim in dims if dim not in config.dims]
    if missing:
        example = ", ".join(f"{dim}: {{min: 1, opt: 8, max: 32}}" for dim in missing)
        raise ConfigError(
            f"the graph has the dynamic dims {missing}, and nothing says which sizes they take",
            f"add, with your own numbers, `dims: {{{example}}}`",
            Where(path=f"{place}.dims"),
        )
    unknown = sorted(config.dims.keys() - set(dims))
    if unknown:
        raise ConfigError(
            f"the graph has no dims {unknown}; it has {dims or 'only fixed sizes'}",
            "correct the names",
            Where(path=f"{place}.dims"),
        )
    for problem in point_problems(config.dims, config.benchmark, config.promote):
        raise ConfigError(problem.message, problem.cure, Where(path=f"{place}.{dotted(problem.path)}"))
    return Signature(inputs=inputs, dims=config.dims)


def _check_declared(facts: GraphFacts, declared: dict[str, InputSpec], place: str) -> None:
    for key, spec in declared.items():
        tensor = facts.inputs.get(key)
        if tensor is None:
            raise ConfigError(
                f"the graph has no input {key!r}; it has {sorted(facts.inputs)}",
                "correct the name, or leave `inputs` out: they are read from the graph",
                Where(path=f"{place}.inputs.{key}"),
            )
        if tensor.dtype != spec.dtype or tensor.shape != spec.shape:
            raise ConfigError(
                f"input {key!r} is declared as {spec.dtype} {list(spec.shape)}; in the graph it is "
                f"{tensor.dtype} {list(tensor.shape)}",
                "correct it, or leave it out: it is read from the graph",
                Where(path=f"{place}.inputs.{key}"),
            )
