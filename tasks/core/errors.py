"""Every error that trtflow raises on purpose.

TrtflowError            one paragraph: what happened, what was expected, what to do
|-- ConfigError         found without running a step (exit code 2)
|-- StepError           a step could not make its artifact
|   |-- UserCodeError   the user's factory, data source or metric failed or broke its contract
|   |-- CannotRun       the graph is made, and nothing here has the kernels to run it
|   |-- DoesNotApply    the graph has nothing that this precision is for, or a tool does not take it
|   `-- WorkerError     the worker process died, hung or broke the protocol
|-- StoreError          the store cannot be read or written
|   |-- ArtifactDamaged a file of an artifact is missing or is not what its report says
|   |-- RemoteRefused   a remote store has no such bucket, knows no such user, or does not let this one write
|   `-- RemoteDamaged   what a remote store holds of an artifact is missing or is not what its report says
|-- PromotionError      nothing to promote, or nothing to roll back to
|-- TrustError          what is in force is not signed, or not what was signed
`-- NotMade             a plan found that a step would have to run
KeyboardInterrupt
`-- Interrupted         SIGINT or SIGTERM (exit code 130 or 143): no handler of errors may hold it up
"""

import signal
from dataclasses import dataclass


class TrtflowError(Exception):
    """An expected failure: `message` says what happened, `cure` what to do, `detail` holds a log or traceback."""

    exit_code = 1

    def __init__(self, message: str, cure: str = "", detail: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.message}\n  {self.cure}" if self.cure else self.message


@dataclass(frozen=True)
class Where:
    """A place in a pipelines.yaml: `line` counts from 1, `path` is dotted (`pipelines.digits.dims.batch`)."""

    file: str = ""
    line: int | None = None
    path: str = ""


class ConfigError(TrtflowError):
    """Wrong usage or configuration, found without running a step."""

    exit_code = 2

    def __init__(self, message: str, cure: str = "", where: Where | None = None) -> None:
        super().__init__(message, cure)
        self.where = where or Where()

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.where.file, self.where.line) if part)
        head = " ".join(part for part in (place, self.where.path) if part)
        return f"{head}: {super().__str__()}" if head else super().__str__()


class StepError(TrtflowError):
    """A step could not make its artifact."""


class UserCodeError(StepError):
    """The user's factory, data source or metric failed or broke its contract."""


class CannotRun(StepError):  # noqa: N818 - a fact about this host, not a fault
    """What was made cannot run here: it is reported as built, not run, and never promoted."""


class DoesNotApply(StepError):  # noqa: N818 - a fact about the graph, not a fault
    """A precision has nothing to do in this graph, or its tool does not take it: skipped where nobody asked for it."""


class WorkerError(StepError):
    """A worker process died, ran out of time or broke the protocol."""


class StoreError(TrtflowError):
    """The store cannot be read or written."""


class ArtifactDamaged(StoreError):  # noqa: N818 - a state of the artifact
    """A file of an artifact is missing or is not what its report says."""

    def __init__(self, message: str, folder: str) -> None:
        super().__init__(message, "the artifact is discarded and made again")
        self.folder = folder


class RemoteRefused(StoreError):  # noqa: N818 - the answer of a server
    """A remote store has no such bucket, knows no such user, or does not let this one do that."""


class RemoteDamaged(StoreError):  # noqa: N818 - a state of the artifact
    """What a remote store holds of an artifact is missing or is not what its report says."""


class PromotionError(TrtflowError):
    """There is nothing to promote, or nothing to roll back to."""


class TrustError(TrtflowError):
    """A promotion, or the engine that it put in force, is not what a trusted key signed."""


class NotMade(TrtflowError):  # noqa: N818 - an answer, not a fault
    """A plan found that a step would have to run; the message says why."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop by SIGINT or SIGTERM."""

    def __init__(self, signum: int) -> None:
        name = signal.Signals(signum).name
        super().__init__(f"interrupted by {name}; finished steps are kept, run again to go on")
        self.exit_code = 128 + signum
