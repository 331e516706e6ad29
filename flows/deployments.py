"""What a YAML registers with a Prefect API, as the API takes it: pure data, made without importing Prefect."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from tasks.core.config import Config, PipelineConfig

FLOW = "convert"
TAG = "trtflow"
_ENTRYPOINT = "flows.served.flow"
_EVENT = "model.retrained"

Json = dict[str, JsonValue]


@dataclass(frozen=True)
class Owner:
    """The YAML that deployments belong to; its tag is how they are found again."""

    file: Path

    @property
    def tag(self) -> str:
        """Says of a deployment or an automation which YAML made it."""
        return f"{TAG}:{hashlib.sha256(str(self.file.resolve()).encode()).hexdigest()[:12]}"

    @property
    def tags(self) -> list[JsonValue]:
        """What everything has that a YAML registers."""
        return [TAG, self.tag]


@dataclass(frozen=True)
class Wanted:
    """One deployment: `fields` are those of `POST /deployments`, `triggers` automations that start it, by name."""

    flow: Literal["convert", "gc"]
    name: str
    fields: Json
    triggers: dict[str, Json] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """As the UI and the API name it."""
        return f"{self.flow}/{self.name}"


def wanted_of(config: Config, owner: Owner) -> list[Wanted]:
    """Every deployment of a YAML."""
    return [_pipeline(name, pipeline, owner) for name, pipeline in config.pipelines.items()]


def _pipeline(name: str, pipeline: PipelineConfig, owner: Owner) -> Wanted:
    schedule = pipeline.schedule
    schedules: list[JsonValue] = []
    if schedule is not None:
        cron: Json = {"cron": schedule.cron, "timezone": schedule.timezone, "day_or": True}
        schedules = [{"schedule": cron}]
    fields: Json = {
        "tags": [*owner.tags, name],
        "description": f"Converts `{name}` of `{owner.file}`: served by `trtflow up`.",
        "schedules": schedules,
        "parameters": {},
        "parameter_openapi_schema": _schema(pipeline),
        "enforce_parameter_schema": True,
        "entrypoint": _ENTRYPOINT,
        "path": str(owner.file.parent),
        # Conversions of one pipeline take turns; each finds what the one before it left in the store.
        "concurrency_limit": 1,
        "concurrency_options": {"collision_strategy": "ENQUEUE"},
    }
    triggers = {f"{FLOW}/{name} on {_EVENT}": _trigger(name)} if pipeline.on_retrain else {}
    return Wanted(FLOW, name, fields, triggers)


def _schema(pipeline: PipelineConfig) -> Json:
    """The form of the UI, which the server holds every caller to."""
    names: list[JsonValue] = [precision.name for precision in pipeline.precisions or ()]
    precision: Json = {"type": "string", "enum": names} if names else {"type": "string"}
    properties: dict[str, Json] = {
        "checkpoint": _optional({"type": "string"}, "Path or URL of the weights (default: as the YAML says)"),
        "sha256": _optional({"type": "string"}, "What the checkpoint must hash to: 64 hexadecimal digits"),
        "metadata": {"type": "object", "default": {}, "description": "Kept beside the run; changes nothing"},
        "occurred": _optional(
            {"type": "string", "format": "date-time"}, "When the checkpoint was made: set by the trigger"
        ),
        "event": _optional({"type": "string"}, "The event that announced the checkpoint: set by the trigger"),
        "precisions": _optional(
            {"type": "array", "items": precision, "minItems": 1, "uniqueItems": True},
            "Make only these (default: all of the pipeline)",
        ),
        "verify": _flag("Hash every cached file, not only look at its stat"),
        "rebenchmark": _flag("Measure again, although nothing changed"),
    }
    for place, (name, text) in enumerate(properties.items()):
        text.update(title=name, position=place)
    return {
        "title": "Parameters",
        "type": "object",
        "properties": {**properties},
        "required": [],
        "definitions": {},
        "additionalProperties": False,
    }


def _optional(kind: Json, text: str) -> Json:
    return {"anyOf": [kind, {"type": "null"}], "default": None, "description": text}


def _flag(text: str) -> Json:
    return {"type": "boolean", "default": False, "description": text}


def _trigger(pipeline: str) -> Json:
    """Runs the deployment with what the event says.

    The templates make something of every event, so that a wrong one ends as a run that says what was wrong with it: what
    does not fit the schema would be dropped by the server with nobody told.
    """
    return {
        "trigger": {
            "type": "event",
            "posture": "Reactive",
            "expect": [_EVENT],
            "match": {"prefect.resource.id": f"trtflow.pipeline.{pipeline}"},
            "threshold": 1,
            "within": 0.0,
        },
        "parameters": {
            "checkpoint": _text("{{ event.payload.checkpoint }}"),
            "sha256": _value("(event.payload.sha256 | string) if event.payload.sha256 else none"),
            "metadata": _value("event.payload.metadata if event.payload.metadata is mapping else {}"),
            "occurred": _text("{{ event.occurred.isoformat() }}"),
            "event": _text("{{ event.id }}"),
        },
    }


def _text(template: str) -> Json:
    return {"__prefect_kind": "jinja", "template": template}


def _value(expression: str) -> Json:
    return {"__prefect_kind": "json", "value": _text("{{ (" + expression + ") | tojson }}")}
