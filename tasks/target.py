"""What is built: one precision for one engine, with the id by which reports, gates and commands call it."""

from tasks.core.config import EngineConfig, PrecisionConfig
from tasks.core.frozen import Frozen


class Target(Frozen):
    """One result of a pipeline; `run_on` is the interpreter, other than its builder's, that opens the engine."""

    engine: EngineConfig
    precision: PrecisionConfig
    run_on: str = ""

    @property
    def label(self) -> str:
        """The engine, and by what it is opened where that did not build it."""
        return f"{self.engine.name}@{self.run_on}" if self.run_on else self.engine.name

    @property
    def id(self) -> str:
        """`<engine>/<precision>`, or `<engine>@<interpreter>/<precision>`."""
        return f"{self.label}/{self.precision.name}"

    @property
    def builder(self) -> "Target":
        """The result of the interpreter that built the engine."""
        return self.model_copy(update={"run_on": ""})

    @property
    def unrepaired(self) -> "Target":
        """The same result without its repair, which is timed beside it."""
        name = f"{self.precision.name}~unrepaired"  # no name in a YAML holds a tilde
        return Target(engine=self.engine, precision=self.precision.model_copy(update={"name": name, "repair": None}))

    @property
    def optional(self) -> bool:
        """Whether the run passes without it."""
        return self.engine.optional or self.precision.optional
