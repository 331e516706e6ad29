"""Step `inspect`: what an ONNX source takes; a torch source says so in the YAML."""

from pathlib import Path

from tasks.context import Context, Work, params
from tasks.core.config import OnnxModel, PipelineConfig
from tasks.core.config_checks import point_problems
from tasks.core.config_fields import nearest
from tasks.core.errors import ConfigError, Where
from tasks.core.onnx_path import onnx_file
from tasks.core.report import Artifact
from tasks.core.signature import InputSpec, Signature
from tasks.core.store import Made
from tasks.core.yaml_source import dotted
from tasks.homes import ONNX
from tasks.sources.declared import declared_files
from tasks.sources.onnx_axes import renamed_shapes
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
    shapes = renamed_shapes(
        {key: tensor.shape for key, tensor in facts.inputs.items()},
        {key: spec.shape for key, spec in declared.items()},
    )
    inputs = {
        key: InputSpec.model_validate(
            {
                "dtype": facts.inputs[key].dtype,
                "shape": shape,
                "range": declared[key].range if key in declared else None,
            }
        )
        for key, shape in shapes.items()
    }
    _check_dims(inputs, config, place)
    for problem in point_problems(config.dims, config.benchmark, config.promote):
        raise ConfigError(problem.message, problem.cure, Where(path=f"{place}.{dotted(problem.path)}"))
    return Signature(inputs=inputs, dims=config.dims)


def _check_dims(inputs: dict[str, InputSpec], config: PipelineConfig, place: str) -> None:
    """Every dynamic axis has a range, and every range is that of one."""
    dims = list(dict.fromkeys(dim for spec in inputs.values() for dim in spec.shape if isinstance(dim, str)))
    missing = sorted(dim for dim in dims if dim not in config.dims)
    unknown = sorted(config.dims.keys() - set(dims))
    if missing:
        raise ConfigError(
            f"the graph has the dynamic dims {missing}, and nothing says which sizes they take",
            _cure_for(missing, unknown, inputs),
            Where(path=f"{place}.dims"),
        )
    if unknown:
        raise ConfigError(
            f"the graph has no dims {unknown}; it has {dims or 'only fixed sizes'}",
            nearest(unknown[0], dims) + "correct the names",
            Where(path=f"{place}.dims.{unknown[0]}"),
        )


def _cure_for(missing: list[str], unknown: list[str], inputs: dict[str, InputSpec]) -> str:
    """Ranges for dims that have none; or, where a range is left over, whose it may be."""
    example = ", ".join(f"{dim}: {{min: 1, opt: 8, max: 32}}" for dim in missing)
    cure = f"add, with your own numbers, `dims: {{{example}}}`"
    if not unknown:
        return cure
    if nearest(unknown[0], missing):
        return f"{nearest(unknown[0], missing)}correct `dims.{unknown[0]}`"
    axis = next(spec.shape.index(missing[0]) for spec in inputs.values() if missing[0] in spec.shape)
    declared = ", ".join(
        f"{name}: {{dtype: {spec.dtype}, shape: [{_renamed(spec, axis, unknown[0])}]}}"
        for name, spec in inputs.items()
        if spec.shape[axis : axis + 1] and spec.shape[axis] in missing
    )
    return f"to have it called {unknown[0]!r}, declare the axis: `inputs: {{{declared}}}`; or {cure}"


def _renamed(spec: InputSpec, axis: int, name: str) -> str:
    return ", ".join(str(name if place == axis else size) for place, size in enumerate(spec.shape))


def _check_declared(facts: GraphFacts, declared: dict[str, InputSpec], place: str) -> None:
    for key, spec in declared.items():
        tensor = facts.inputs.get(key)
        if tensor is None:
            raise ConfigError(
                f"the graph has no input {key!r}; it has {sorted(facts.inputs)}",
                f"{nearest(key, facts.inputs)}correct the name, or leave `inputs` out: they are read from the graph",
                Where(path=f"{place}.inputs.{key}"),
            )
        sizes = zip(spec.shape, tensor.shape, strict=False)
        fits = len(spec.shape) == len(tensor.shape) and all(isinstance(own, str) or own == size for size, own in sizes)
        if tensor.dtype != spec.dtype or not fits:
            raise ConfigError(
                f"input {key!r} is declared as {spec.dtype} {list(spec.shape)}; in the graph it is "
                f"{tensor.dtype} {list(tensor.shape)}",
                "correct it, or leave it out: it is read from the graph",
                Where(path=f"{place}.inputs.{key}"),
            )
