"""From the verdicts on the results to the verdict on the run."""

import pytest

from flows.findings import Finding, Findings
from flows.outcomes import passes
from tasks.core.config import EngineConfig, PrecisionConfig
from tasks.core.errors import StepError
from tasks.core.outcome import EngineStatus, RunOutcome, RunStatus, exit_code
from tasks.gates import Verdict
from tasks.target import Target


def found(status: EngineStatus, *, optional: bool = False) -> Finding:
    target = Target(
        engine=EngineConfig(runtime="onnxruntime", name="ort", optional=optional),
        precision=PrecisionConfig(kind="fp32", name="fp32"),
    )
    return Finding(target, Verdict(status=status, reason=""))


def findings(*results: Finding, failure: StepError | None = None) -> Findings:
    return Findings(results=results, benchmark=None, source_metric=None, failure=failure, trunk=None)


@pytest.mark.parametrize("status", ["failed", "error"])
def test_one_required_result_that_failed_fails_the_run(status: EngineStatus) -> None:
    assert not passes(findings(found("passed"), found(status)))


@pytest.mark.parametrize("status", ["failed", "error", "skipped", "built"])
def test_an_optional_result_may_end_as_it_likes_while_another_passes(status: EngineStatus) -> None:
    assert passes(findings(found("passed"), found(status, optional=True)))


@pytest.mark.parametrize("status", ["skipped", "built"])
def test_what_cannot_run_here_fails_nothing(status: EngineStatus) -> None:
    assert passes(findings(found("passed"), found(status)))


@pytest.mark.parametrize(
    "results", [(), (found("skipped"),), (found("built"),), (found("failed", optional=True),)], ids=len
)
def test_where_nothing_passed_the_run_did_not_pass(results: tuple[Finding, ...]) -> None:
    assert not passes(findings(*results))


def test_a_step_that_all_share_fails_the_run_whatever_passed() -> None:
    assert not passes(findings(found("passed"), failure=StepError("the benchmark broke")))


@pytest.mark.parametrize(
    ("statuses", "code"),
    [((), 0), (("passed",), 0), (("passed", "passed"), 0), (("passed", "failed"), 1), (("interrupted",), 1)],
)
def test_the_exit_code_is_0_only_when_every_run_passed(statuses: tuple[RunStatus, ...], code: int) -> None:
    runs = tuple(
        RunOutcome(pipeline="p", status=status, run="r", seconds=0, steps=(), engines=(), promoted=None)
        for status in statuses
    )
    assert exit_code(runs) == code
