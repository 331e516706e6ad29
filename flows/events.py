"""The event that announces a retrained checkpoint: what a sender says, and how a Prefect server is told it.

Standard library only, and Python 3.10: a training job imports this, in an environment of its own.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from uuid import UUID, uuid4

from tasks.core.errors import ConfigError
from tasks.core.paths import absolute_path

EVENT = "model.retrained"
# What a Prefect server does not hand on as it is.
TEMPLATE = "__prefect_kind"
# A Prefect server takes events of up to 1.5 MB; what a trigger hands on becomes a parameter, shown in a form.
_MOST_METADATA = 64_000
_SHA256 = re.compile(r"[0-9a-f]{64}")


def resource_id(pipeline: str) -> str:
    """What the event is about, as triggers match it."""
    return f"trtflow.pipeline.{pipeline}"


def deployment_title(pipeline: str) -> str:
    """The deployment that converts a pipeline."""
    return f"convert/{pipeline}"


def trigger_name(pipeline: str) -> str:
    """The automation by which a server starts that deployment when it hears of the event."""
    return f"{deployment_title(pipeline)} on {EVENT}"


def is_url(checkpoint: str) -> bool:
    """Whether a checkpoint is named by a URL, as fsspec knows them, and not by a path."""
    return "://" in checkpoint


def checked_sha256(text: str) -> str:
    """A digest in lower case; raise ConfigError for what is none."""
    if not _SHA256.fullmatch(text.lower()):
        raise ConfigError(f"{text!r:.99} is no sha256", "give 64 hexadecimal digits, as sha256sum prints them")
    return text.lower()


@dataclass(frozen=True)
class Retrained:
    """One announcement: of a pipeline, there is a new checkpoint. `occurred` decides which of several is the newest.

    `checkpoint` is a path, sent absolute, or a URL that fsspec opens; `metadata` is kept beside the run.
    """

    pipeline: str
    checkpoint: str
    sha256: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    occurred: datetime = field(default_factory=lambda: datetime.now(timezone.utc))  # noqa: UP017 - 3.10
    id: UUID = field(default_factory=uuid4)

    def __post_init__(self) -> None:
        """Refuse what a server would take and no run could use."""
        if not self.checkpoint.strip() or not self.checkpoint.isprintable():
            raise ConfigError(f"{self.checkpoint!r:.99} names no checkpoint", "give a path or a URL")
        if not is_url(self.checkpoint):
            object.__setattr__(self, "checkpoint", str(absolute_path(self.checkpoint)))
        if self.sha256 is not None:
            object.__setattr__(self, "sha256", checked_sha256(self.sha256))
        if not self.pipeline or "/" in self.pipeline:
            raise ConfigError(f"{self.pipeline!r:.99} is no pipeline", "give its name in the YAML")
        _check_metadata(self.metadata)
        if self.occurred.tzinfo is None:
            raise ConfigError(f"{self.occurred} is a time of no time zone", "give occurred=datetime.now(timezone.utc)")

    def as_event(self) -> dict[str, object]:
        """The JSON of it: `POST /api/events` takes a list of these."""
        return {
            "id": str(self.id),
            "occurred": self.occurred.isoformat(),
            "event": EVENT,
            "resource": {
                "prefect.resource.id": resource_id(self.pipeline),
                "prefect.resource.name": self.pipeline,
            },
            "payload": self.payload,
        }

    @property
    def payload(self) -> dict[str, object]:
        """What the trigger hands on to the run."""
        return {
            "pipeline": self.pipeline,
            "checkpoint": self.checkpoint,
            "sha256": self.sha256,
            "metadata": dict(self.metadata),
        }


def _check_metadata(metadata: Mapping[str, str]) -> None:
    for key, value in metadata.items():
        if not all(isinstance(text, str) for text in (key, value)):  # a training job is checked by no types
            raise ConfigError(f"metadata {key!r:.99} is {value!r:.99}", "give names and values as texts")
        if not _is_unicode(key + value):
            raise ConfigError(f"metadata {key!r:.99} is not in UTF-8", "give names and values as texts")
        if key == TEMPLATE:
            raise ConfigError(
                f"metadata cannot be called {TEMPLATE}", "a Prefect server reads it as a template: rename it"
            )
    if len(json.dumps(dict(metadata))) > _MOST_METADATA:
        raise ConfigError(f"the metadata is longer than {_MOST_METADATA} bytes", "put it in a file, and send its name")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
