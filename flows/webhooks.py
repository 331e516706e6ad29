"""The blocks in which a Prefect server keeps the addresses of webhooks: secret, so each is known by a digest."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

from flows.api import Api, Json
from flows.automations import digest_of

if TYPE_CHECKING:
    from uuid import UUID

    from flows.deploy import Registration


@contextlib.contextmanager
def webhooks(api: Api, registration: "Registration", *, dry_run: bool) -> Iterator[dict[str, str]]:
    """Have a block for every address, and after the context none for any other; gives their ids by address."""
    mark = f"trtflow-{registration.owner.tag[-12:]}-"
    there = {name: str(each["id"]) for each in _blocks(api) if (name := str(each["name"])).startswith(mark)}
    wanted = {f"{mark}{digest_of(each.webhook)}": each.webhook for each in registration.automations if each.webhook}
    ids = {}
    for name, address in wanted.items():
        if name not in there and not dry_run:
            there[name] = _save(address, name)
        if name in there:
            ids[address] = there[name]
    yield ids
    if not dry_run:
        for name, key in there.items():
            if name not in wanted:
                api.change("DELETE", "/block_documents/{id}", key, {})


def _blocks(api: Api) -> list[Json]:
    return api.all("/block_documents/filter", block_types={"slug": {"any_": ["webhook"]}})


def _save(address: str, name: str) -> str:
    from prefect.blocks.webhook import Webhook
    from pydantic import SecretStr

    # The addresses of a team's own services are private more often than not.
    block = Webhook(method="POST", url=SecretStr(address), allow_private_urls=True)
    save = cast("Callable[..., UUID]", block.save)  # its annotation does not know of `_sync`
    return str(save(name, overwrite=True, _sync=True))
