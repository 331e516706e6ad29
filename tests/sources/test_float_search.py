"""The search for what to float, on errors that are known."""

from collections.abc import Callable, Mapping

import pytest

from tasks.core.errors import StepError
from tasks.sources.float_search import Candidate, Floated, Search, by_operator


def node(name: str, op_type: str) -> Candidate:
    return Candidate(name=name, op_type=op_type, role=f"{op_type} {name.rstrip('0123456789')}#")


NODES = [
    *(node(f"add{i}", "Add") for i in range(4)),
    *(node(f"out{i}", "MatMul") for i in range(3)),
    node("q0", "MatMul"),
]


class Known:
    """Each quantised node adds its share of error; `refused` are sets that the confirmation does not take."""

    def __init__(
        self, shares: Mapping[str, float], bound: float, refused: Callable[[Floated], bool] | None = None
    ) -> None:
        self.shares, self.bound, self.refused = shares, bound, refused
        self.asked = 0

    def error(self, floated: Floated) -> float:
        self.asked += 1
        return round(sum(share for name, share in self.shares.items() if name not in floated), 6)

    def accepts(self, floated: Floated) -> bool:
        return self.error(floated) <= self.bound and not (self.refused and self.refused(floated))


def never() -> bool:
    return False


SHARES = {"add0": 0.2, "add1": 0.1, "add2": 0.01, "add3": 0.01, "out0": 0.02, "out1": 0.02, "out2": 0.02, "q0": 0.0}


def test_what_reaches_its_goal_already_is_left_as_it_is() -> None:
    assert Search(NODES, Known(SHARES, 0.5), never, "rel_l2 0.1").run() == frozenset()


def test_only_the_nodes_that_matter_of_the_operator_that_matters_are_floated() -> None:
    search = Search(NODES, Known(SHARES, 0.12), never, "rel_l2 0.1")
    assert search.run() == {"add0", "add1"}
    assert search.curve[0].floated == 0
    assert search.curve[0].rel_l2 == pytest.approx(0.38)
    assert search.curve[1].change == "+ Add"


def test_roles_are_given_back_whole() -> None:
    found = Search(NODES, Known({"out0": 0.1, "out1": 0.1, "out2": 0.1, "q0": 0.01}, 0.05), never, "rel_l2 0.1").run()
    assert found == {"out0", "out1", "out2"}


def test_a_second_operator_is_floated_where_one_is_not_enough() -> None:
    found = Search(NODES, Known(SHARES, 0.03), never, "rel_l2 0.1").run()
    assert {"add0", "add1"} <= found
    assert found & {"out0", "out1", "out2"}
    assert "q0" not in found


def test_what_is_not_confirmed_is_not_taken() -> None:
    without_one = Known(SHARES, 0.12, refused=lambda floated: "add3" not in floated)
    assert Search(NODES, without_one, never, "rel_l2 0.1").run() == {"add0", "add1", "add3"} or without_one.accepts(
        Search(NODES, without_one, never, "rel_l2 0.1").run()
    )


def test_a_goal_out_of_reach_is_told_with_the_best_that_was_found() -> None:
    with pytest.raises(
        StepError, match=r"cannot reach its goal \(rel_l2 0.1\): with 8 of 8 nodes in float .* rel_l2 0"
    ) as refusal:
        Search(NODES, Known(SHARES, -1.0), never, "rel_l2 0.1").run()
    assert "aim lower" in refusal.value.cure


def test_time_that_is_over_before_the_goal_is_an_error() -> None:
    with pytest.raises(StepError, match="in its time"):
        Search(NODES, Known(SHARES, 0.03), lambda: True, "rel_l2 0.1").run()


def test_time_that_is_over_after_the_goal_costs_only_the_refinement() -> None:
    assert Search(NODES, Known(SHARES, 0.12), lambda: True, "rel_l2 0.1").run() == {"add0", "add1", "add2", "add3"}


def test_counts_by_operator() -> None:
    assert by_operator(NODES) == {"Add": 4, "MatMul": 4}
