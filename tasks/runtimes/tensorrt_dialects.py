"""In what the TensorRTs differ: a table with a line for each generation; nothing else asks for a version."""

from typing import TYPE_CHECKING

from pydantic import Field

from tasks.core.errors import StepError
from tasks.core.frozen import Frozen
from tasks.runtimes.load import BY

if TYPE_CHECKING:
    from types import ModuleType

    from tasks.runtimes.interpreters import Interpreter


class Dialect(Frozen):
    """What one generation of TensorRT takes and can.

    weak: types in the graph are hints, and `kind_flags` let the builder follow them. network_flags: names of
    NetworkDefinitionCreationFlag. opset, ir_version: the highest that its parser reads, None where nothing is known to
    be too new. preview: names of PreviewFeature to switch on. offline: builds without a GPU, for a compute capability
    that it is told. lean: whether a plan can be made that other versions run. calibrator: flags for int8 by its own
    calibrator, empty where it has none. unread: types of ONNX that its parser has no name for. strip: whether a plan
    can be made without its weights. parser_refit: whether the library itself matches the weights of an ONNX file.
    timing_cache: whether one saves time. plans: the major versions whose version-compatible plans it opens.
    """

    name: str
    weak: bool
    network_flags: tuple[str, ...]
    opset: int | None
    ir_version: int | None
    precisions: tuple[str, ...]
    kind_flags: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    preview: tuple[str, ...] = ()
    offline: bool = False
    lean: bool = True
    calibrator: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()
    strip: bool = True
    parser_refit: bool = True
    timing_cache: bool = True
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
        # Several contexts of one profile, for several streams: from 10 on that is always so.
        preview=("PROFILE_SHARING_0806",),
        # What the calibrator lowers is TensorRT's choice, layer by layer, and so is what it leaves: fp16 is allowed
        # there, as NVIDIA advises, since a layer without int8 kernels would else fall back to fp32.
        calibrator=("INT8", "FP16"),
        unread=("BFLOAT16", "FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "INT4", "UINT4"),
        strip=False,
        parser_refit=False,
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
    timing_cache=False,  # there, but it does nothing since 1.2, and warns of that
)


def dialect_of(module: "ModuleType") -> Dialect:
    """Find the line of the table for an imported TensorRT; raise StepError for a version that it has none for."""
    return dialect_named(module.__name__, module.__version__)


def dialect_named(module: str, version: str) -> Dialect:
    """The same for one that is not imported here."""
    if module == "tensorrt_rtx":
        return _RTX
    major = int(version.partition(".")[0])
    if major not in _TENSORRT:
        known = ", ".join(dialect.name for dialect in _TENSORRT.values())
        raise StepError(
            f"{module} {version} is no TensorRT that this version of trtflow knows",
            f"install one of {known}",
        )
    return _TENSORRT[major]


class Reads(Frozen):
    """The highest opset and IR version that a parser reads."""

    opset: int
    ir_version: int


def reads(place: "Interpreter", kind: str) -> Reads | None:
    """What the TensorRT of an interpreter reads; None where nothing is too new, or it takes no such graph anyway."""
    if place.runtime != "tensorrt":
        return None
    version = next((found for name, found in place.versions().items() if name != BY), "")
    dialect = _TENSORRT.get(_numbers(version)[0]) if _numbers(version) else None
    if dialect is None or kind not in dialect.precisions or dialect.opset is None or dialect.ir_version is None:
        return None
    return Reads(opset=dialect.opset, ir_version=dialect.ir_version)


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
