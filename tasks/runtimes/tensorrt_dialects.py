"""In what the TensorRTs differ: a table with a line for each generation; nothing else asks for a version."""

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.core.errors import StepError
from tasks.core.frozen import Frozen

if TYPE_CHECKING:
    from types import ModuleType


class Dialect(Frozen):
    """What one generation of TensorRT takes and can.

    weak: types in the graph are hints, and `kind_flags` let the builder follow them. network_flags: names of
    NetworkDefinitionCreationFlag. opset, ir_version: the highest that its parser reads, None where nothing is known to
    be too new. offline: builds without a GPU, for a compute capability that it is told. lean: whether a plan can be
    made that other versions run. plans: the major versions whose version-compatible plans it opens.
    """

    name: str
    weak: bool
    network_flags: tuple[str, ...]
    opset: int | None
    ir_version: int | None
    precisions: tuple[str, ...]
    kind_flags: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    offline: bool = False
    lean: bool = True
    plans: tuple[int, ...] = ()


_WEAK = {"fp16": ("FP16",), "int8": ("INT8",), "typed": ("FP16", "INT8")}
_EVERY = ("fp32", "fp16", "bf16", "int8", "fp8", "int4", "typed")
# Sources: the release notes and migration guides of TensorRT 8.6, 10, 11 and TensorRT-RTX 1; what was run of it is in
# docs/evidence.
_TENSORRT: dict[int, Dialect] = {
    8: Dialect(
        name="8.6",
        weak=True,
        network_flags=("EXPLICIT_BATCH",),
        opset=17,
        ir_version=8,
        precisions=("fp32", "fp16", "int8", "typed"),
        kind_flags=_WEAK,
        plans=(8,),
    ),
    10: Dialect(
        name="10",
        weak=False,
        network_flags=("STRONGLY_TYPED",),
        opset=21,
        ir_version=10,
        precisions=_EVERY,
        plans=(8, 10),
    ),
    11: Dialect(
        name="11", weak=False, network_flags=(), opset=None, ir_version=None, precisions=_EVERY, plans=(10, 11)
    ),
}
_RTX = Dialect(
    name="rtx",
    weak=False,
    network_flags=(),
    opset=None,
    ir_version=None,
    precisions=_EVERY,
    offline=True,
    lean=False,
)


def dialect_of(module: "ModuleType") -> Dialect:
    """Find the line of the table for an imported TensorRT; raise StepError for a version that it has none for."""
    if module.__name__ == "tensorrt_rtx":
        return _RTX
    major = int(module.__version__.partition(".")[0])
    if major not in _TENSORRT:
        known = ", ".join(dialect.name for dialect in _TENSORRT.values())
        raise StepError(
            f"{module.__name__} {module.__version__} is no TensorRT that this version of trtflow knows",
            f"install one of {known}",
        )
    return _TENSORRT[major]


def builds(module: "ModuleType") -> bool:
    """Whether this is the whole of TensorRT, and not one of its runtimes alone."""
    return hasattr(module, "Builder")


def opens(module: "ModuleType", version: str, *, version_compatible: bool) -> bool:
    """Whether a plan that `version` made is one for this TensorRT: another version only ever opens what is older."""
    if version == module.__version__:
        return True
    made, here = _numbers(version), _numbers(module.__version__)
    return version_compatible and made < here and made[0] in dialect_of(module).plans


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def network_flags(module: "ModuleType", dialect: Dialect) -> int:
    """Bits for `create_network`."""
    flags = (getattr(module.NetworkDefinitionCreationFlag, name) for name in dialect.network_flags)
    return sum(1 << int(flag) for flag in flags)
