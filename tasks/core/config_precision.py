"""A precision in a pipelines.yaml: one typed graph to make, and by what."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias, get_args

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic import model_validator as check

from tasks.core.config_fields import Name, Problem, Section, refusal, suggest

PrecisionKind: TypeAlias = Literal["fp32", "fp16", "bf16", "int8", "fp8", "int4", "typed"]
Method: TypeAlias = Literal["max", "entropy", "trt-entropy", "rtn", "awq"]
Quantizer: TypeAlias = Literal["modelopt", "onnxruntime"]

PRECISIONS: tuple[PrecisionKind, ...] = get_args(PrecisionKind)
# The first is the default. awq weighs the columns of a weight by the activations that meet them, so it needs
# calibration data; measured on a sentence encoder it is nearer to fp32 than rtn (relative L2 0.28 against 0.33).
METHODS: Mapping[PrecisionKind, tuple[Method, ...]] = MappingProxyType(
    {"int8": ("max", "entropy", "trt-entropy"), "fp8": ("max",), "int4": ("awq", "rtn")}
)
# Kinds whose graph keeps its fp32 weights beside Q/DQ pairs: a node goes back to float by passing its pairs by.
REPAIRABLE: tuple[PrecisionKind, ...] = ("int8", "fp8")
_EXAMPLE = "write one precision an item, like fp16 or {fp16: {name: half}}"
_TIME = {
    "anyOf": [
        {"type": "number", "exclusiveMinimum": 0},
        {"type": "string", "pattern": r"^\d+(\.\d+)?\s*[smh]?$"},
    ]
}
_SECONDS = MappingProxyType({"": 1, "s": 1, "m": 60, "h": 3600})


def _regex(text: str) -> str:
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise refusal([Problem(f"{text!r} is not a regular expression: {error}", "correct the pattern")]) from None
    return text


def _seconds(value: object) -> object:
    """Read `90`, `90s`, `2m` or `1h` as seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", value) if isinstance(value, str) else None
    if isinstance(value, str) and not found:
        raise refusal([Problem(f"{value!r:.60} is no time", "write it like 90s or 2m")])
    return float(found[1]) * _SECONDS[found[2]] if found else value


Seconds: TypeAlias = Annotated[float, BeforeValidator(_seconds), Field(gt=0), WithJsonSchema(_TIME)]


class ExcludeConfig(Section):
    """What stays in high precision: nodes whose name matches a pattern, and types of operators."""

    nodes: tuple[Annotated[str, AfterValidator(_regex)], ...] = ()
    op_types: tuple[str, ...] = ()


class RepairBounds(Section):
    """What a repaired graph must reach against the source framework; every bound that is given holds."""

    metric_drop: float | None = Field(default=None, ge=0)
    rel_l2: float | None = Field(default=None, ge=0)
    cosine: float | None = Field(default=None, ge=-1, le=1)

    @check(mode="after")
    def _bounds_something(self) -> Self:
        if not self.model_dump(exclude_none=True):
            names = ", ".join(type(self).model_fields)
            raise refusal([Problem("there is no bound to reach", f"set at least one of {names}")])
        return self


class RepairConfig(Section):
    """Float the fewest groups of nodes that bring a quantised graph to `until`, or to `or`; search for `budget`."""

    model_config = ConfigDict(populate_by_name=True)

    until: RepairBounds
    otherwise: RepairBounds | None = Field(default=None, validation_alias="or", serialization_alias="or")
    budget: Seconds = 120.0

    @property
    def goals(self) -> tuple[RepairBounds, ...]:
        """Sets of bounds, any one of which is enough."""
        return (self.until, self.otherwise) if self.otherwise else (self.until,)


class PruneConfig(Section):
    """Set the smallest weights to zero: two of every four, or a share of each tensor."""

    pattern: Literal["2:4"] | None = None
    sparsity: float | None = Field(default=None, gt=0, lt=1)

    @check(mode="after")
    def _one_way(self) -> Self:
        if (self.pattern is None) == (self.sparsity is None):
            cure = 'write {pattern: "2:4"} or {sparsity: 0.5}'
            raise refusal([Problem("expected exactly one of 'pattern' and 'sparsity'", cure)])
        return self


def _yaml_schema(schema: dict[str, Any]) -> None:
    """Describe a precision the way YAML writes it."""
    options = {name: field for name, field in schema.pop("properties").items() if name != "kind"}
    options_schema = {"type": "object", "properties": options, "additionalProperties": False}
    kinds = {kind: {"anyOf": [options_schema, {"type": "null"}]} for kind in PRECISIONS}
    wrapped = {"type": "object", "properties": kinds, "additionalProperties": False}
    for key in ("type", "required", "additionalProperties"):
        schema.pop(key, None)
    schema["anyOf"] = [{"enum": list(PRECISIONS)}, {**wrapped, "minProperties": 1, "maxProperties": 1}]


class PrecisionConfig(Section):
    """One typed graph to make; YAML writes it `fp16` or `{int8: {name: int8-entropy, method: entropy}}`."""

    model_config = ConfigDict(json_schema_extra=_yaml_schema, populate_by_name=True)
    implied: ClassVar[tuple[str, ...]] = ("kind",)

    kind: PrecisionKind
    name: Name = ""
    optional: bool = False
    method: Method | None = None
    tool: Quantizer = Field(default="modelopt", validation_alias="with", serialization_alias="with")
    exclude: ExcludeConfig = ExcludeConfig()
    repair: RepairConfig | None = None
    prune: PruneConfig | None = None

    @check(mode="before")
    @classmethod
    def _from_yaml(cls, value: Any) -> Any:  # noqa: ANN401 -- whatever the YAML holds
        """Bring the two ways of writing it to one, with the name and the method filled in."""
        if isinstance(value, str):
            value = {"kind": value}
        if isinstance(value, cls):
            return value
        if not isinstance(value, dict):
            raise refusal([Problem(f"found {value!r:.60}, expected a precision", _EXAMPLE)])
        options = value if "kind" in value else _unwrapped(value)
        kind = options["kind"]
        if kind not in PRECISIONS:
            return options
        implied = {"method": METHODS[kind][0]} if kind in METHODS else {}
        return {"name": kind, **implied, **options}

    @check(mode="after")
    def _possible(self) -> Self:
        problems = [problem for problem in self._problems() if problem is not None]
        if problems:
            raise refusal(problems)
        return self

    def _problems(self) -> tuple[Problem | None, ...]:
        return (self._wrong_method(), self._wrong_tool(), *self._pointless())

    def _wrong_method(self) -> Problem | None:
        methods = METHODS.get(self.kind, ())
        if self.method is None or self.method in methods:
            return None
        cure = suggest(self.method, methods) or "remove 'method'"
        return Problem(f"{self.kind} has no method {self.method!r}", cure, ("method",))

    def _wrong_tool(self) -> Problem | None:
        if self.tool == "modelopt" or (self.kind, self.method) == ("int8", "max"):
            return None
        # Its entropy calibration gives the ranges of max at its default bins, and fails on some graphs.
        how = f" by {self.method}" if self.method else ""
        message = f"onnxruntime quantises to int8 by max, not to {self.kind}{how}"
        return Problem(message, "remove 'with', or use {int8: {method: max, with: onnxruntime}}", ("with",))

    def _pointless(self) -> tuple[Problem | None, ...]:
        lowers = self.kind not in ("fp32", "typed") and not self.by_tensorrt
        what = f"{self.kind} by {self.method}" if self.by_tensorrt else self.kind
        exclude = f"'exclude' keeps nodes out of a lower precision, and {what} lowers nothing in the graph"
        repair = f"'repair' passes Q/DQ pairs by, and {what} has none that can be"
        repairable = self.kind in REPAIRABLE and not self.by_tensorrt
        prune = "'prune' changes the weights, and a typed graph is taken as it is"
        return (
            None if lowers or self.exclude == ExcludeConfig() else Problem(exclude, "remove 'exclude'", ("exclude",)),
            None if repairable or not self.repair else Problem(repair, "remove 'repair'", ("repair",)),
            None if self.kind != "typed" or not self.prune else Problem(prune, "remove 'prune'", ("prune",)),
        )

    @property
    def by_tensorrt(self) -> bool:
        """Whether TensorRT's own calibrator makes the precision while it builds; the graph stays fp32."""
        return self.method == "trt-entropy"

    @property
    def calibrated(self) -> bool:
        """Whether the precision takes its ranges from calibration data."""
        return self.kind in METHODS and self.method != "rtn"


def _unwrapped(value: dict[str, Any]) -> dict[str, Any]:
    """Turn `{fp16: {name: half}}` into `{kind: fp16, name: half}`."""
    if len(value) != 1:
        raise refusal([Problem(f"found {len(value)} keys, expected one precision", _EXAMPLE)])
    ((kind, options),) = value.items()
    if options is None:
        return {"kind": kind}
    if not isinstance(options, dict):
        raise refusal([Problem(f"the options of precision {kind!r} are no mapping", _EXAMPLE)])
    if "kind" in options:
        raise refusal([Problem("'kind' is given twice", _EXAMPLE)])
    return {**options, "kind": kind}
