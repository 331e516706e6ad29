"""What makes a plain function a step: its name, version and the options that an orchestrator needs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class StepOptions:
    """`version` is part of every key: raise it when the step makes something else from the same inputs."""

    name: str
    version: int = 1
    retries: int = 0
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step(Generic[P, R]):
    """A step: called like the function that it marks."""

    function: Callable[P, R]
    options: StepOptions = field(kw_only=True)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the step here and now."""
        return self.function(*args, **kwargs)


def step(options: StepOptions) -> Callable[[Callable[P, R]], Step[P, R]]:
    """Mark a function as a step."""

    def mark(function: Callable[P, R]) -> Step[P, R]:
        return Step(function, options=options)

    return mark
