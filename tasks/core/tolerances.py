"""How large an error is accepted, per kind of precision, unless a pipeline's gates say otherwise."""

from collections.abc import Mapping
from types import MappingProxyType

from tasks.core.frozen import Frozen
from tasks.core.metrics import UNBOUNDED, OutputError


class Tolerance(Frozen):
    """Bounds on the worst output: the errors must not be above theirs, the agreements not below. None is no bound."""

    max_abs_error: float | None = None
    rel_l2: float | None = None
    cosine: float | None = None
    top1_agreement: float | None = None
    slice_rel_l2: float | None = None
    agreement: float | None = None


# The metrics of which less is better; of the others, more is.
_ERRORS = frozenset({"max_abs_error", "rel_l2", "slice_rel_l2"})
# What an output need not have: no bound of ours is broken by that.
_OPTIONAL = frozenset({"slice_rel_l2", "agreement"})

# A slice that is lost is off by 1 (zeros in its place) or more. One that is small beside the others suffers most from
# a low precision, and is no fault as long as it is recognisable.
_EIGHT_BITS = Tolerance(rel_l2=0.15, cosine=0.985, slice_rel_l2=0.75)

# An engine against the source framework. Relative bounds only: an absolute one would depend on the outputs' scale.
# "Measured": the relative L2 errors of seven networks (a small CNN, ResNet-18, ViT, MiniLM, U-Net, SRCNN, LSTM).
PARITY: Mapping[str, Tolerance] = MappingProxyType(
    {
        # Same arithmetic in another order: float32 rounds at 6e-8, deep networks lose two to three digits of that.
        "fp32": Tolerance(rel_l2=1e-4, cosine=0.9999, slice_rel_l2=1e-2),
        # Eleven bits of mantissa round at 5e-4. Measured 2e-5 to 9e-4; ten times that leaves room for depth.
        "fp16": Tolerance(rel_l2=1e-2, cosine=0.999, slice_rel_l2=0.5),
        # Eight bits of mantissa, an eighth of fp16's: about eight times its error, and its range needs no care.
        "bf16": Tolerance(rel_l2=5e-2, cosine=0.995, slice_rel_l2=0.5),
        # Measured 3e-3 to 0.10 where nothing was wrong. MiniLM, whose retrieval int8 ruins, is at 0.53 and cosine 0.86;
        # with its residual adds left in float it is usable, and at 0.17 and cosine 0.985: just outside.
        "int8": _EIGHT_BITS,
        # Measured 4e-3 to 0.094, MiniLM included: a wider range than int8, but only four bits of mantissa.
        "fp8": _EIGHT_BITS,
        # Weights only, on sixteen levels. Measured 0.03 to 0.33; cosine 0.9445 at 0.33 is judged too far.
        "int4": Tolerance(rel_l2=0.3, cosine=0.95, slice_rel_l2=0.9),
        # A graph that came with its own Q/DQ: eight bits is what such graphs hold most often.
        "typed": _EIGHT_BITS,
    }
)

# An optimised session against the same typed graph unoptimised: largest relative L2 distance at which it still agrees.
# The optimiser may reorder sums and fuse operators. In fp32 that costs rounding only; fp16 fusions skip or add a
# rounding; a quantised graph can move a value over the edge of a quantisation step (measured 1e-3 to 3e-3).
# Wrong optimisations are far away from all of these: 0.06 to 1.8 were measured.
AGREEMENT: Mapping[str, float] = MappingProxyType(
    {"fp32": 1e-4, "fp16": 5e-3, "bf16": 5e-3, "int8": 2e-2, "fp8": 2e-2, "int4": 2e-2, "typed": 2e-2}
)


def excess(error: OutputError, tolerance: Tolerance) -> list[str]:
    """One sentence for each bound that `error` breaks; NaN or Inf always fails, as does a bound on what has no value.

    `error` is the worst over all outputs: one output alone need not look like logits.
    """
    if not error.finite:
        return ["the outputs hold NaN or Inf"]
    sentences = [_other_rows(error.rows)] if error.rows else []
    for name, bound in tolerance:
        value = getattr(error, name)
        if bound is not None and value is None:
            sentences += _without(name)
        elif bound is not None and name in _ERRORS and value > bound:
            at = f" at {error.slice_at}" if name == "slice_rel_l2" else ""
            sentences.append(f"{name}{at} {_written(value, bound)} is above {bound:.12g}")
        elif bound is not None and name not in _ERRORS and value < bound:
            sentences.append(f"{name} {_written(value, bound)} is below {bound:.12g}")
    return sentences


def _other_rows(rows: tuple[int, int]) -> str:
    actual, expected = rows
    return f"the number of rows differs: {actual} instead of {expected}"


def _without(name: str) -> list[str]:
    if name in _OPTIONAL:
        return []
    return [f"{name} has a bound, but no output looks like logits (floating point, two axes)"]


def _written(value: float, bound: float) -> str:
    """Write `value` short, but with enough digits that it does not read like `bound`."""
    if value >= UNBOUNDED:
        return "(infinite)"
    short = f"{value:.4g}"
    return repr(value) if float(short) == bound else short
