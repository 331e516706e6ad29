"""What the DAG of a pipeline found: values, before a run tells and promotes."""

from dataclasses import dataclass

from tasks.benchmark import BenchmarkMetrics
from tasks.core.errors import TrtflowError
from tasks.core.report import Artifact
from tasks.gates import Verdict
from tasks.parity import ParityMetrics
from tasks.target import Target
from tasks.verify_range import RangeMetrics


@dataclass(frozen=True)
class Finding:
    """What became of one result; what is None was not reached. `compiled` is the graph that the engine was built from.

    `regression` is why a result that passed may not take the place of the engine that is promoted, `no_layers` why
    there is no table of its layers although its runtime has them.
    """

    target: Target
    verdict: Verdict
    built: Artifact | None = None
    typed: Artifact | None = None
    compiled: Artifact | None = None
    unrepaired: Artifact | None = None
    calibration: Artifact | None = None
    parity: ParityMetrics | None = None
    metric: float | None = None
    regression: str = ""
    layers: Artifact | None = None
    over_range: RangeMetrics | None = None
    no_layers: str = ""


@dataclass(frozen=True)
class MadeTrunk:
    """What all results were made from."""

    data: Artifact
    exported: Artifact
    folded: Artifact


@dataclass(frozen=True)
class Findings:
    """All results of a pipeline, before anything is promoted."""

    results: tuple[Finding, ...]
    benchmark: BenchmarkMetrics | None
    source_metric: float | None
    failure: TrtflowError | None
    trunk: MadeTrunk | None
    suspected: str = ""  # why the metric seems to be read the wrong way round
    uncounted: TrtflowError | None = None  # why the report lacks what the model costs to run
