"""What the YAML asked of results, as far as a reader of a run needs it: kinds, bounds, the metric and its limit."""

from dataclasses import dataclass, field

from tasks.core.config import PipelineConfig, PromoteConfig, complete
from tasks.core.outcome import EngineOutcome
from tasks.core.tolerances import PARITY, Tolerance
from tasks.gates import DEFAULT_METRIC_DROP, tolerance_of


@dataclass(frozen=True)
class Bound:
    """Bounds of a result's error; `usual` ones decide only where there is no metric."""

    tolerance: Tolerance
    usual: bool


@dataclass(frozen=True)
class Asked:
    """An empty one tells of a run whose YAML is not at hand."""

    kinds: dict[str, str] = field(default_factory=dict)
    gates: dict[str, Tolerance] = field(default_factory=dict)
    metric: str | None = None
    rises: bool = True
    least: float | None = None
    drop: float = DEFAULT_METRIC_DROP
    objective: PromoteConfig = field(default_factory=PromoteConfig)
    threads: dict[str, int | None] = field(default_factory=dict)  # of engines on a CPU; None: a physical core each

    def kind(self, engine: EngineOutcome) -> str:
        """The kind of a result's precision; empty where that is not known."""
        return self.kinds.get(engine.precision, "")

    def bound(self, engine: EngineOutcome) -> Bound | None:
        """As the gates look it up: by the result's id, then by the precision's name, then by its kind."""
        kind = self.kind(engine)
        for name in (engine.id, engine.precision, kind):
            if name in self.gates:
                return Bound(self.gates[name], usual=False)
        return Bound(PARITY[kind], usual=True) if kind in PARITY else None

    def limit(self, source: float | None) -> float | None:
        """The worst metric that is accepted: its own bound, or what it may lose against the source."""
        if self.metric is None:
            return None
        allowed = [] if source is None else [source - self.drop if self.rises else source + self.drop]
        allowed += [] if self.least is None else [self.least]
        return (max(allowed) if self.rises else min(allowed)) if allowed else None

    def named(self, reason: str) -> str:
        """A verdict's reason with the metric by its name."""
        if self.metric is None:
            return reason
        for mark in (": ", "; "):
            reason = reason.replace(f"{mark}metric ", f"{mark}{self.metric} ")
        reason = reason.replace("its metric decides", f"{self.metric} decides")
        return reason.replace("metric: ", f"{self.metric}: ", 1) if reason.startswith("metric: ") else reason


def asked_of(config: PipelineConfig) -> Asked:
    """Read it from a pipeline."""
    found = config.data.evaluation.metric if config.data.evaluation else None
    promote, at = config.promote, config.promote.at
    return Asked(
        # Where the YAML names none, those that are made are called by their kind.
        kinds={each.name: each.kind for each in config.precisions}
        if config.precisions
        else {kind: kind for kind in PARITY},
        gates={name: tolerance_of(gate) for name, gate in config.gates.parity.items()},
        metric=found.function.partition(":")[2] if found else None,
        rises=found is None or found.higher_is_better,
        least=(found.min if found.higher_is_better else found.max) if found else None,
        drop=DEFAULT_METRIC_DROP if config.gates.metric_drop is None else config.gates.metric_drop,
        objective=promote if at is None else promote.model_copy(update={"at": complete(at, config.dims)}),
        threads={engine.name: engine.options.threads for engine in config.engines or () if engine.device == "cpu"},
    )
