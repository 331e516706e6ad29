"""Bring a Prefect API to what a YAML says: compare, then create, change and remove only what differs."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import JsonValue

from flows.api import Api, Json
from flows.automations import Automation, automations_of
from flows.deployments import TAG, Owner, Wanted, wanted_of
from flows.webhooks import webhooks
from tasks.core.config import Config
from tasks.core.errors import ConfigError

T = TypeVar("T")
R = TypeVar("R")
Verb = Literal["create", "change", "remove", "keep"]
# SQLite takes one write at a time: more callers than this only wait.
_AT_ONCE = 4
_FLOWS = ("convert", "gc")


@dataclass(frozen=True)
class Change:
    """One difference between the YAML and the API; `what` tells which fields."""

    verb: Verb
    title: str
    what: tuple[str, ...] = ()


@dataclass(frozen=True)
class Deployed:
    """What was done, and the deployments' ids by their titles."""

    changes: tuple[Change, ...]
    ids: dict[str, str]


@dataclass(frozen=True)
class Found:
    """What the API has: our deployments by title, everybody's titles that we want, and our automations by name."""

    deployments: dict[str, Json]
    taken: dict[str, Json]
    automations: dict[str, list[Json]]


@dataclass(frozen=True)
class Registration:
    """All that a YAML registers."""

    owner: Owner
    deployments: list[Wanted]
    automations: list[Automation]


def registration_of(config: Config, file: Path) -> Registration:
    """Read it from a YAML, and webhooks' addresses from the environment."""
    owner = Owner(file)
    return Registration(owner, wanted_of(config, owner), automations_of(config, owner, os.environ))


def deploy(api: Api, registration: Registration, *, dry_run: bool = False, adopt: bool = False) -> Deployed:
    """Make the API have what is wanted; what the owner has there beside that is removed.

    With `dry_run` nothing is sent but questions. With `adopt`, a YAML that made what is wanted here, and is gone, is
    taken for the owner's: the folder was moved, with the database of the API.
    """
    wanted, owner = registration.deployments, registration.owner
    found = _find(api, owner, [each.title for each in wanted] if adopt else ())
    _refuse_strangers(wanted, found, owner)
    missing = [each for each in wanted if each.title not in found.deployments]
    changed = {
        each.title: _differences(each.fields, found.deployments[each.title]) for each in wanted if each not in missing
    }
    titles = {each.title for each in wanted}
    gone = {title: each for title, each in found.deployments.items() if title not in titles}
    changes = [Change("create", each.title) for each in missing]
    changes += [Change("change", title, tuple(what)) for title, what in changed.items() if what]
    busy = _at_work(api, gone)
    changes += [Change("keep", title, ("paused", "a run of it is at work: deploy again")) for title in busy]
    changes += [Change("remove", title) for title in gone if title not in busy]
    ids = {title: str(each["id"]) for title, each in found.deployments.items() if title in titles}
    if not dry_run:
        stale = [each for each in wanted if each in missing or changed[each.title]]
        ids |= _write(api, stale)
    with webhooks(api, registration, dry_run=dry_run) as blocks:
        bodies = {each.name: each.body(owner, ids, blocks) for each in registration.automations}
        changes += _automations(api, found, bodies, dry_run=dry_run)
    if not dry_run:  # last: an automation that starts what is gone would fail
        _each(lambda title: _take_away(api, str(gone[title]["id"]), paused=title in busy), gone)
    return Deployed(tuple(changes), ids)


def _at_work(api: Api, gone: dict[str, Json]) -> set[str]:
    """Those with a live run: without its deployment, a server cannot set the run's last state."""
    if not gone:
        return set()
    live = api.all(
        "/flow_runs/filter",
        flow_runs={"state": {"type": {"any_": ["PENDING", "RUNNING", "CANCELLING"]}}},
        deployments={"id": {"any_": [each["id"] for each in gone.values()]}},
    )
    busy = {run["deployment_id"] for run in live}
    return {title for title, each in gone.items() if each["id"] in busy}


def _take_away(api: Api, key: str, *, paused: bool) -> None:
    if paused:
        api.change("PATCH", "/deployments/{id}", key, {"paused": True})
    else:
        api.change("DELETE", "/deployments/{id}", key, {})


def ids_of(api: Api, owner: Owner) -> dict[str, str]:
    """The deployments that the owner has there now: ids by title."""
    return {title: str(each["id"]) for title, each in _find(api, owner).deployments.items()}


def _find(api: Api, owner: Owner, adopted: Iterable[str] = ()) -> Found:
    flows = {
        str(flow["id"]): str(flow["name"]) for flow in api.all("/flows/filter", flows={"name": {"any_": [*_FLOWS]}})
    }
    every = api.all("/deployments/filter", flows={"name": {"any_": [*_FLOWS]}}) if flows else []
    by_title = {f"{flows[str(each['flow_id'])]}/{each['name']}": each for each in every}
    orphans = [by_title[title] for title in adopted if title in by_title and _is_orphan(by_title[title])]
    tags = {owner.tag, *(tag for each in orphans for tag in _owners(each))}
    automations: dict[str, list[Json]] = {}
    for tag in sorted(tags):
        for automation in api.all("/automations/filter", automations={"tags": {"all_": [tag]}}):
            automations.setdefault(str(automation["name"]), []).append(automation)
    ours = {title: each for title, each in by_title.items() if tags & _owners(each)}
    return Found(ours, by_title, automations)


def _owners(deployment: Json) -> set[str]:
    """Tags of the YAML that made it: none, if it was something else."""
    return {str(tag) for tag in _list(deployment["tags"]) if str(tag).startswith(f"{TAG}:")}


def _is_orphan(deployment: Json) -> bool:
    """Whether the YAML that made it is not there any more."""
    return bool(_owners(deployment) and deployment.get("path")) and not Path(str(deployment["path"])).exists()


def _refuse_strangers(wanted: list[Wanted], found: Found, owner: Owner) -> None:
    """Somebody else's deployment of the same name is not ours to change."""
    titles = [each.title for each in wanted if each.title not in found.deployments]
    strangers = {title: found.taken[title] for title in titles if title in found.taken}
    if not strangers:
        return
    paths = {str(each.get("path") or "an unknown place") for each in strangers.values()}
    whose = ", ".join(sorted(paths)) if all(map(_owners, strangers.values())) else "somebody else"
    cure = "rename the pipeline, or delete the deployment there (prefect deployment delete NAME)"
    if all(map(_is_orphan, strangers.values())):
        cure += "; a YAML that was moved gets its deployments back from a `trtflow up` with a server of its own"
    raise ConfigError(
        f"the API has {', '.join([*strangers][:5])} already, made by {whose} and not by {owner.file}",
        f"{cure}; nothing was changed",
    )


def _write(api: Api, stale: Iterable[Wanted]) -> dict[str, str]:
    """Create or replace deployments; returns their ids."""
    stale = list(stale)
    ids = {name: str(api.send("POST", "/flows/", {"name": name})["id"]) for name in {each.flow for each in stale}}

    def write(each: Wanted) -> tuple[str, str]:
        body: Json = {"flow_id": ids[each.flow], "name": each.name, **each.fields}
        return each.title, str(api.send("POST", "/deployments/", body)["id"])

    return dict(_each(write, stale))


def _automations(api: Api, found: Found, wanted: dict[str, Json], *, dry_run: bool) -> list[Change]:
    calls: list[_Call] = []
    for name, body in wanted.items():
        have = found.automations.get(name, [])
        if not have:
            calls.append(_Call(Change("create", name), "", body))
        elif what := _differences(body, have[0]):
            # Whether somebody switched it off is theirs to say.
            full: Json = {**body, "enabled": have[0]["enabled"]}
            calls.append(_Call(Change("change", name, tuple(what)), str(have[0]["id"]), full))
    for name, have in found.automations.items():
        extra = have[1:] if name in wanted else have
        calls += [_Call(Change("remove", name), str(each["id"]), {}) for each in extra]
    if not dry_run:
        _each(lambda call: _send(api, call), calls)
    return [call.change for call in calls]


@dataclass(frozen=True)
class _Call:
    """How one change of an automation is made."""

    change: Change
    key: str
    body: Json


def _send(api: Api, call: _Call) -> None:
    match call.change.verb:
        case "create":
            api.send("POST", "/automations/", call.body)
        case "change":
            api.change("PUT", "/automations/{id}", call.key, call.body)
        case "remove":
            api.change("DELETE", "/automations/{id}", call.key, {})


def _each(act: Callable[[T], R], items: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(act, items))


def _differences(wanted: Json, have: Json) -> list[str]:
    """Names of the fields that are not as they are wanted."""
    return [name for name, value in wanted.items() if not _covers(_seen(name, have), value)]


def _seen(name: str, have: Json) -> JsonValue:
    """A field as it was sent: the API answers with the concurrency limit in another place."""
    if name == "concurrency_limit":
        limit = have.get("global_concurrency_limit")
        return limit.get("limit") if isinstance(limit, dict) else None
    return have.get(name)


def _covers(have: JsonValue, wanted: JsonValue) -> bool:
    """Whether all that is wanted is there; the API adds ids and defaults of its own."""
    if isinstance(wanted, dict):
        return isinstance(have, dict) and all(_covers(have.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list):
        same = isinstance(have, list) and len(have) == len(wanted)
        return same and all(map(_covers, _sorted(_list(have)), _sorted(wanted)))
    return have == wanted


def _sorted(values: list[JsonValue]) -> list[JsonValue]:
    """Tags and events are sets to the API."""
    return sorted(values, key=str) if all(isinstance(value, str) for value in values) else values


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []
