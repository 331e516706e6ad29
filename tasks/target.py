"""What is built: one precision for one engine, with the id by which reports, gates and commands call it."""

from tasks.core.config import EngineConfig, PrecisionConfig
from tasks.core.frozen import Frozen


class Target(Frozen):
    """One result of a pipeline."""

    engine: EngineConfig
    precision: PrecisionConfig

    @property
    def id(self) -> str:
        """`<engine>/<precision>`."""
        return f"{self.engine.name}/{self.precision.name}"

    @property
    def unrepaired(self) -> "Target":
        """The same result without its repair, which is timed beside it."""
        name = f"{self.precision.name}~unrepaired"  # no name in a YAML holds a tilde
        return Target(engine=self.engine, precision=self.precision.model_copy(update={"name": name, "repair": None}))

    @property
    def optional(self) -> bool:
        """Whether the run passes without it."""
        return self.engine.optional or self.precision.optional
