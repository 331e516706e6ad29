"""What a YAML has a Prefect server do by itself: start runs for events, find dead ones, tell a webhook. Pure data."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from flows.deployments import Json, Owner, gc_name
from flows.events import EVENT, TEMPLATE, deployment_title, resource_id, trigger_name
from tasks.core.config import Config, NotifyConfig
from tasks.core.errors import ConfigError

_DEAD_SECONDS = 90.0  # three heartbeats
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


@dataclass(frozen=True)
class Automation:
    """One automation. What it needs to know of the server is named: a deployment that it runs, some that it watches."""

    name: str
    trigger: Json
    action: Json
    runs: str | None = None
    watches: tuple[str, ...] = ()
    webhook: str | None = None  # the address that it calls

    def body(self, owner: Owner, ids: Mapping[str, str], blocks: Mapping[str, str]) -> Json:
        """As `POST /automations` takes it; an id that a dry run does not make is left out."""
        action, trigger = dict(self.action), dict(self.trigger)
        if self.runs and self.runs in ids:
            action["deployment_id"] = ids[self.runs]
        if self.webhook and self.webhook in blocks:
            action["block_document_id"] = blocks[self.webhook]
        watched: list[JsonValue] = [f"prefect.deployment.{ids[title]}" for title in self.watches if title in ids]
        if self.watches:
            trigger["match_related"] = {"prefect.resource.role": "deployment", "prefect.resource.id": watched}
        description = f"Made by trtflow from {owner.file}"
        return {
            "name": self.name,
            "description": description,
            "tags": owner.tags,
            "trigger": trigger,
            "actions": [action],
        }


def automations_of(config: Config, owner: Owner, environment: Mapping[str, str]) -> list[Automation]:
    """Every automation of a YAML; raise ConfigError for a webhook whose variable is not set."""
    made = [_on_event(name) for name, pipeline in config.pipelines.items() if pipeline.on_retrain]
    told: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for name, pipeline in config.pipelines.items():
        _add(told, pipeline.notify or config.notify, deployment_title(name), environment)
    if config.keep:
        _add(told, config.notify, f"gc/{gc_name(owner)}", environment)
    made += [_notify(address, on, tuple(titles)) for (address, on), titles in told.items()]
    return [*made, _zombies(owner)]


def _add(
    told: dict[tuple[str, tuple[str, ...]], list[str]],
    notify: NotifyConfig | None,
    title: str,
    environment: Mapping[str, str],
) -> None:
    if notify is None:
        return
    address = environment.get(notify.variable, "") if notify.variable else notify.webhook
    if not address.startswith(("http://", "https://")):
        what = f"{notify.variable} holds no address" if address else f"{notify.variable} is not set"
        raise ConfigError(
            f"`notify` names a variable for its webhook, and {what}", f"export {notify.variable}=https://..."
        )
    told.setdefault((address, tuple(sorted(set(notify.when)))), []).append(title)


def _on_event(pipeline: str) -> Automation:
    """Runs the deployment with what the event says.

    The templates make something of every event, so that a wrong one ends as a run that says what was wrong with it:
    what does not fit the deployment's schema is dropped by the server, and nobody is told.
    """
    trigger: Json = {
        "type": "event",
        "posture": "Reactive",
        "expect": [EVENT],
        "match": {"prefect.resource.id": resource_id(pipeline)},
        "threshold": 1,
        "within": 0.0,
    }
    parameters: Json = {
        "checkpoint": _text("{{ event.payload.checkpoint }}"),
        "sha256": _value(f"none if {_absent('sha256')} else event.payload.sha256 | string"),
        "metadata": _value(
            f"{{}} if {_absent('metadata')} else event.payload.metadata if event.payload.metadata is mapping "
            f"and '{TEMPLATE}' not in (event.payload.metadata | tojson) else {{'': 'of no use'}}"
        ),
        "occurred": _text("{{ event.occurred.isoformat() }}"),
        "event": _text("{{ event.id }}"),
    }
    action: Json = {"type": "run-deployment", "source": "selected", "parameters": parameters}
    return Automation(trigger_name(pipeline), trigger, action, runs=deployment_title(pipeline))


def _absent(name: str) -> str:
    return f"event.payload.{name} is undefined or event.payload.{name} is none"


def _text(template: str) -> Json:
    return {TEMPLATE: "jinja", "template": template}


def _value(expression: str) -> Json:
    return {TEMPLATE: "json", "value": _text("{{ (" + expression + ") | tojson }}")}


def _zombies(owner: Owner) -> Automation:
    """A run whose heartbeats stop has crashed, also where its host is gone and nobody is left to say so."""
    beat = "prefect.flow-run.heartbeat"
    trigger: Json = {
        "type": "event",
        "posture": "Proactive",
        "after": [beat],
        "expect": [beat, *(f"prefect.flow-run.{name}" for name in _ENDS), "prefect.flow-run.AwaitingRetry"],
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "match_related": {"prefect.resource.id": f"prefect.tag.{owner.tag}"},
        "for_each": ["prefect.resource.id"],
        "threshold": 1,
        "within": _DEAD_SECONDS,
    }
    message = f"no sign of life for {_DEAD_SECONDS:.0f} s: it was killed, or its host went down"
    action: Json = {"type": "change-flow-run-state", "state": "CRASHED", "name": "Crashed", "message": message}
    return Automation(f"dead runs of {owner.file.name} ({owner.tag[-6:]})", trigger, action)


def _notify(address: str, on: tuple[str, ...], titles: tuple[str, ...]) -> Automation:
    trigger: Json = {
        "type": "event",
        "posture": "Reactive",
        "expect": [f"prefect.flow-run.{ending.capitalize()}" for ending in on],
        "match": {"prefect.resource.id": "prefect.flow-run.*"},
        "threshold": 1,
        "within": 0.0,
    }
    said = {
        "text": '"trtflow: " ~ flow_run.name ~ " " ~ flow_run.state.name ~ ": " ~ (flow_run.state.message or "")',
        "pipeline": "deployment.name",
        "run": "flow_run.name",
        "flow_run_id": "flow_run.id | string",
        "state": "flow_run.state.name",
        "message": "flow_run.state.message",
        "url": "flow_run | ui_url",
    }
    payload = "{" + ", ".join(f'"{key}": {{{{ ({text}) | tojson }}}}' for key, text in said.items()) + "}"
    action: Json = {"type": "call-webhook", "payload": payload}
    name = f"notify {digest_of(address)} of {' and '.join(on)} runs"
    return Automation(name, trigger, action, watches=titles, webhook=address)


def digest_of(address: str) -> str:
    """Stands for a webhook's address where it must not be read."""
    return hashlib.sha256(address.encode()).hexdigest()[:12]
