import pytest

from tasks.core.metrics import UNBOUNDED, OutputError
from tasks.core.tolerances import AGREEMENT, PARITY, Tolerance, excess

GOOD = OutputError(max_abs_error=0.5, rel_l2=0.0132, cosine=0.998, top1_agreement=0.97)


def test_no_sentence_without_a_broken_bound() -> None:
    assert excess(GOOD, Tolerance()) == []
    assert excess(GOOD, Tolerance(max_abs_error=0.5, rel_l2=0.0132, cosine=0.998, top1_agreement=0.97)) == []


def test_one_sentence_for_each_broken_bound() -> None:
    assert excess(GOOD, Tolerance(max_abs_error=0.1, rel_l2=0.01, cosine=0.999, top1_agreement=0.99)) == [
        "max_abs_error 0.5 is above 0.1",
        "rel_l2 0.0132 is above 0.01",
        "cosine 0.998 is below 0.999",
        "top1_agreement 0.97 is below 0.99",
    ]


def test_numbers_close_to_their_bound_are_written_out() -> None:
    error = OutputError(max_abs_error=0, rel_l2=0.0100001, cosine=0.99899999)
    assert excess(error, Tolerance(rel_l2=0.01, cosine=0.999)) == [
        "rel_l2 0.0100001 is above 0.01",
        "cosine 0.99899999 is below 0.999",
    ]


def test_outputs_that_are_not_finite_always_fail() -> None:
    error = OutputError(max_abs_error=0, rel_l2=0, cosine=1, finite=False)
    assert excess(error, Tolerance()) == ["the outputs hold NaN or Inf"]


def test_infinite_error_is_called_so() -> None:
    error = OutputError(max_abs_error=1, rel_l2=UNBOUNDED, cosine=0)
    assert excess(error, Tolerance(rel_l2=0.1)) == ["rel_l2 (infinite) is above 0.1"]


def test_bound_on_what_was_not_measured_fails() -> None:
    error = OutputError(max_abs_error=0, rel_l2=0, cosine=1)
    assert "no output looks like logits" in excess(error, Tolerance(top1_agreement=0.9))[0]


def test_every_kind_has_defaults_and_lower_precisions_have_wider_ones() -> None:
    assert PARITY.keys() == AGREEMENT.keys()
    bounds = [(PARITY[kind].rel_l2, PARITY[kind].cosine) for kind in ("fp32", "fp16", "bf16", "int8", "int4")]
    assert bounds == [(1e-4, 0.9999), (1e-2, 0.999), (5e-2, 0.995), (0.15, 0.985), (0.3, 0.95)]
    assert PARITY["typed"] == PARITY["fp8"] == PARITY["int8"]


# Measured on MiniLM, the most sensitive of the networks that the defaults were chosen by.
@pytest.mark.parametrize(
    ("kind", "rel_l2", "cosine", "passes"),
    [
        ("fp8", 0.094, 0.9956, True),
        ("int4", 0.28, 0.962, True),
        ("int4", 0.33, 0.9445, False),
        ("int8", 0.534, 0.86, False),
    ],
)
def test_defaults_part_what_is_usable_from_what_is_not(kind: str, rel_l2: float, cosine: float, passes: bool) -> None:
    error = OutputError(max_abs_error=9, rel_l2=rel_l2, cosine=cosine)
    assert (excess(error, PARITY[kind]) == []) == passes
