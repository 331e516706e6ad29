"""`trtflow deploy`."""

import json
from argparse import Namespace

from flows.api import open_api
from flows.deploy import Change, Deployed, Registration, deploy, registration_of
from flows.deployments import Owner
from flows.options import Options
from tasks.core.names import check_names
from tasks.core.yaml_source import load_config

_SAYS = {"create": ("+", "created"), "change": ("~", "changed"), "remove": ("-", "removed"), "keep": ("=", "kept")}


def command(parsed: Namespace, options: Options) -> int:
    """Register every pipeline with the configured API, and say what that changed."""
    config = load_config(options.file)
    check_names(config, options.file)
    nothing = Registration(Owner(options.file), [], [])
    wanted = nothing if parsed.remove else registration_of(config, options.file)
    with open_api() as api:
        done = deploy(api, wanted, dry_run=parsed.dry_run)
    if options.json:
        print(json.dumps(_told(done, dry_run=parsed.dry_run)))
    else:
        show(done, dry_run=parsed.dry_run)
    return 0


def show(done: Deployed, *, dry_run: bool = False) -> None:
    """One line a difference, then how many there are."""
    for change in done.changes:
        fields = f": {', '.join(change.what)}" if change.what else ""
        print(f"{_SAYS[change.verb][0]} {change.title}{fields}")
    told = [verb for verb in _SAYS if verb != "keep" or _count(done.changes, verb)]
    will = "to be " if dry_run else ""
    counts = [f"{_count(done.changes, verb)} {will}{_SAYS[verb][1]}" for verb in told]
    print(", ".join(counts) if done.changes else "nothing to change: the API has all of it")


def _count(changes: tuple[Change, ...], verb: str) -> int:
    return sum(change.verb == verb for change in changes)


def _told(done: Deployed, *, dry_run: bool) -> dict[str, object]:
    changes = [{"verb": change.verb, "title": change.title, "fields": change.what} for change in done.changes]
    return {"changes": changes, "deployments": sorted(done.ids), "dry_run": dry_run}
