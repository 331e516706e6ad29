"""What `make fuzz` counts: a check that does not hold is kept with its smallest input, and the target goes on."""

from argparse import Namespace

from hypothesis import strategies as st

from benchmarks import fuzz
from tests.fuzz.targets import Target


def test_a_finding_is_counted_by_its_place_and_the_target_goes_on() -> None:
    def check(drawn: object) -> None:
        assert isinstance(drawn, int)
        if drawn > 100:
            raise KeyError(drawn)
        if drawn < -100:
            raise ValueError(drawn)

    target = Target("numbers", st.integers(-1000, 1000), check)
    found = fuzz.run_target(target, Namespace(minutes=0.05, seed=1))
    assert isinstance(found["examples"], int)
    findings = found["findings"]
    assert isinstance(findings, list)
    assert sorted(each["error"].partition(":")[0] for each in findings) == ["KeyError", "ValueError"]
    assert 2 < sum(each["count"] for each in findings) < found["examples"]
    assert all("test_findings.py" in each["place"] for each in findings)


def test_what_holds_leaves_no_finding() -> None:
    found = fuzz.run_target(Target("any", st.integers(), lambda _: None), Namespace(minutes=0.005, seed=1))
    assert found["findings"] == []
