"""Which nodes of a quantised graph to float: the fewest groups that bring it within its goal.

Operators first, then roles (nodes of repeated blocks, whose names differ by numbers only), then single nodes. Pure:
what an error is, and what is good enough, is asked of a `Trial`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

from tasks.core.errors import StepError
from tasks.core.frozen import Frozen

Floated: TypeAlias = frozenset[str]


class Candidate(Frozen):
    """A node that computes on dequantised inputs and can go back to float."""

    name: str
    op_type: str
    role: str


class CurvePoint(Frozen):
    """One graph that was tried: how many nodes it floats, what was floated last, and its error on the search set."""

    floated: int
    change: str
    rel_l2: float


class Trial(Protocol):
    """Judges a graph by the names of the nodes that it floats."""

    def error(self, floated: Floated) -> float:
        """Relative L2 error on the golden set that the search looks at."""

    def accepts(self, floated: Floated) -> bool:
        """Whether the graph reaches its goal, confirmed on data that the search does not look at."""


@dataclass
class Search:
    """One search for `goal`, in words; `late` tells that its time is over. The curve is kept for the report."""

    candidates: Sequence[Candidate]
    trial: Trial
    late: Callable[[], bool]
    goal: str
    curve: list[CurvePoint] = field(default_factory=list)

    def run(self) -> Floated:
        """Return the names to float; raise StepError where the time is over before the goal was reached."""
        self._note("nothing", frozenset())
        if self.trial.accepts(frozenset()):
            return frozenset()
        floated = self._widen()
        for unit in (lambda node: node.role, lambda node: node.name):
            floated = self._narrow(floated, unit)
        return floated

    def _widen(self) -> Floated:
        """Float one operator after the other, that which helps most first, until the goal is reached."""
        floated: Floated = frozenset()
        groups = _grouped(self.candidates, lambda node: node.op_type)
        while groups:
            errors = {name: self.trial.error(floated | nodes) for name, nodes in groups.items()}
            best = min(errors, key=lambda name: (errors[name], len(groups[name]), name))
            floated |= groups.pop(best)
            self._note(f"+ {best}", floated)
            if self.trial.accepts(floated):
                return floated
            if self.late():
                told = f"the repair did not reach its goal ({self.goal}) in its time: {self._best()}"
                raise StepError(told, "give it more budget")
        cure = "aim lower: what is left is not of the quantised nodes (pruning? the export? `show NAME --where`)"
        raise StepError(f"the repair cannot reach its goal ({self.goal}): {self._best()}", cure)

    def _narrow(self, floated: Floated, unit: Callable[[Candidate], str]) -> Floated:
        """Quantise again as many of the floated groups as the goal allows, the least harmful first."""
        groups = _grouped((node for node in self.candidates if node.name in floated), unit)
        harm: dict[str, float] = {}
        for name, nodes in groups.items():
            if self.late():
                return floated
            harm[name] = self.trial.error(floated - nodes)
        order = sorted(groups, key=lambda name: (harm[name], name))
        low, high, best = 0, len(order), floated
        while low < high and not self.late():
            middle = (low + high + 1) // 2
            fewer = floated.difference(*(groups[name] for name in order[:middle]))
            self._note(f"- {middle} of {len(order)} groups", fewer)
            if fewer != floated and self.trial.accepts(fewer):
                low, best = middle, fewer
            else:
                high = middle - 1
        return best

    def _note(self, change: str, floated: Floated) -> None:
        self.curve.append(CurvePoint(floated=len(floated), change=change, rel_l2=self.trial.error(floated)))

    def _best(self) -> str:
        best = min(self.curve, key=lambda point: point.rel_l2)
        total = len(self.candidates)
        return f"with {best.floated} of {total} nodes in float the error was still rel_l2 {best.rel_l2:.3g}"


def _grouped(nodes: Iterable[Candidate], unit: Callable[[Candidate], str]) -> dict[str, Floated]:
    groups: dict[str, set[str]] = {}
    for node in nodes:
        groups.setdefault(unit(node), set()).add(node.name)
    return {name: frozenset(names) for name, names in groups.items()}


def by_operator(nodes: Iterable[Candidate]) -> Mapping[str, int]:
    """How many of the nodes each operator has."""
    return Counter(node.op_type for node in nodes)
