"""The `polygraphy run` line that does what made an artifact, or that judges what came out of it."""

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tasks.core.errors import ConfigError
from tasks.core.signature import Signature
from tasks.repro import KeptRequest, Places
from tasks.runtimes.base import CARD, read_card
from tasks.runtimes.load import LAYERED, module_of, runtime_name
from tasks.runtimes.tensorrt_dialects import dialect_named

# Polygraphy runs the same file again: what differs is the order of float additions, never more.
_TOLERANCE = "1e-4"
_RUN = ("polygraphy", "run")
# Options of an engine that are switches of Polygraphy.
_SWITCHES = {
    "tf32": "--tf32",
    "sparsity": "--sparse-weights",
    "version_compatible": "--version-compatible",
    "refittable": "--refittable",
}
_BUILDER_FLAGS = {"FP16": "--fp16", "INT8": "--int8"}


def polygraphy_line(folder: Path, kept: KeptRequest, places: Places) -> str:
    """The command by which Polygraphy judges the same: for what an engine computed, its own run of it against ours."""
    request = places.show(kept.calls[0].request)
    engine, model = request.get("engine"), request.get("model")
    if engine and (folder / "inputs.json").is_file():
        return _judging(folder, Path(str(engine)), Path(str(request["card"])))
    if model and request.get("runtime") in LAYERED and (folder / CARD).is_file():
        return _building(folder, request)
    if model:
        return shlex.join([*_RUN, str(model), "--model-type", "onnx", "--onnxrt"])
    raise ConfigError(
        f"Polygraphy has nothing that does what {folder.parent.name} does",
        "name an artifact of parity, or of a step that starts from an ONNX graph",
    )


def _judging(folder: Path, engine: Path, card: Path) -> str:
    """Run the engine on the inputs that ours had, and compare with what came out of ours."""
    runtime = read_card(card).runtime
    how = ["engine", "--trt"] if runtime in LAYERED else ["onnx", "--onnxrt"]
    compared = ["--load-inputs", str(folder / "inputs.json"), "--load-outputs", str(folder / "outputs.json")]
    bounds = ["--rtol", _TOLERANCE, "--atol", _TOLERANCE]
    return _prefix(runtime) + shlex.join([*_RUN, str(engine), "--model-type", *how, *compared, *bounds])


def _building(folder: Path, request: Mapping[str, Any]) -> str:
    """Build the typed graph with the same flags, and run it."""
    card = read_card(folder / CARD)
    dialect = dialect_named(module_of(runtime_name(card.runtime)), card.runtime_version)
    kinds = [_BUILDER_FLAGS[flag] for flag in dialect.kind_flags.get(card.precision, ())]
    typed = ["--strongly-typed"] if "STRONGLY_TYPED" in dialect.network_flags else []
    shapes = _shapes(Signature.model_validate(request["signature"]))
    arguments = [*_RUN, str(request["model"]), "--model-type", "onnx", "--trt", *kinds, *typed]
    return _prefix(card.runtime) + shlex.join([*arguments, *shapes, *_options(request["options"])])


def _prefix(runtime: str) -> str:
    return "POLYGRAPHY_USE_TENSORRT_RTX=1 " if runtime == "tensorrt-rtx" else ""


def _shapes(signature: Signature) -> Iterator[str]:
    """The optimization profile."""
    if not signature.dims:
        return
    for which in ("min", "opt", "max"):
        sizes = signature.sizes(which)
        yield f"--trt-{which}-shapes"
        for name in signature.inputs:
            yield f"{name}:[{','.join(map(str, signature.shape(name, sizes)))}]"


def _options(options: Mapping[str, Any]) -> Iterator[str]:
    yield from (switch for name, switch in _SWITCHES.items() if options.get(name))
    if options.get("hardware_compatible"):
        yield from ("--hardware-compatibility-level", "ampere_plus")
    if options.get("optimization_level") is not None:
        yield from ("--builder-optimization-level", str(options["optimization_level"]))
    if options.get("workspace_bytes") is not None:
        yield from ("--pool-limit", f"workspace:{options['workspace_bytes']}")
    if options.get("plugins"):
        yield from ("--plugins", *map(str, options["plugins"]))
