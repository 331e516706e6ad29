"""What a YAML registers with a Prefect API, as the API takes it: pure data, made without importing Prefect."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import JsonValue

from tasks.core.config import Config, KeepConfig, PipelineConfig, ScheduleConfig

TAG = "trtflow"

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
    """One deployment: `fields` are those of `POST /deployments`."""

    flow: Literal["convert", "gc"]
    name: str
    fields: Json

    @property
    def title(self) -> str:
        """As the UI and the API name it."""
        return f"{self.flow}/{self.name}"


def wanted_of(config: Config, owner: Owner) -> list[Wanted]:
    """Every deployment of a YAML."""
    kept = [_gc(config.keep, owner)] if config.keep else []
    return [*(_pipeline(name, pipeline, owner) for name, pipeline in config.pipelines.items()), *kept]


def gc_name(owner: Owner) -> str:
    """Name of the deployment that tidies up: one a YAML, and never that of a pipeline, which holds no '@'."""
    return f"{owner.file.name}@{owner.tag[-6:]}"


def _gc(keep: KeepConfig, owner: Owner) -> Wanted:
    fields: Json = {
        "tags": owner.tags,
        "description": f"Removes what `keep` of `{owner.file}` does not want: served by `trtflow up`.",
        "schedules": [_schedule(keep.schedule)],
        "parameters": {},
        "parameter_openapi_schema": {"title": "Parameters", "type": "object", "properties": {}, "required": []},
        "enforce_parameter_schema": True,
        "entrypoint": "flows.tidied.flow",
        "path": str(owner.file.resolve()),
        "concurrency_limit": 1,
        "concurrency_options": {"collision_strategy": "CANCEL_NEW"},
    }
    return Wanted("gc", gc_name(owner), fields)


def _schedule(schedule: ScheduleConfig) -> Json:
    cron: Json = {"cron": schedule.cron, "timezone": schedule.timezone, "day_or": True}
    return {"schedule": cron}


def _pipeline(name: str, pipeline: PipelineConfig, owner: Owner) -> Wanted:
    fields: Json = {
        "tags": [*owner.tags, name],
        "description": f"Converts `{name}` of `{owner.file}`: served by `trtflow up`.",
        "schedules": [_schedule(pipeline.schedule)] if pipeline.schedule else [],
        "parameters": {},
        "parameter_openapi_schema": _schema(pipeline),
        "enforce_parameter_schema": True,
        "entrypoint": "flows.served.flow",
        "path": str(owner.file.resolve()),
        # Conversions of one pipeline take turns; each finds what the one before it left in the store.
        "concurrency_limit": 1,
        "concurrency_options": {"collision_strategy": "ENQUEUE"},
    }
    return Wanted("convert", name, fields)


def _schema(pipeline: PipelineConfig) -> Json:
    """The form of the UI, which the server holds every caller to."""
    names: list[JsonValue] = [precision.name for precision in pipeline.precisions or ()]
    precision: Json = {"type": "string", "enum": names} if names else {"type": "string"}
    properties: dict[str, Json] = {
        "checkpoint": _optional({"type": "string"}, "Path or URL of the weights (default: as the YAML says)"),
        "sha256": _optional({"type": "string"}, "What the checkpoint must hash to: 64 hexadecimal digits"),
        "metadata": {
            "type": "object",
            "default": {},
            "description": "Kept beside the run's checkpoint; changes nothing",
        },
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
