"""A Prefect API: whether it answers, takes us and is of a version that fits, and JSON in and out."""

import base64
import contextlib
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from pydantic import JsonValue

from tasks.core.errors import ConfigError, TrtflowError
from tasks.core.remote_errors import told_url

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.orchestration.routes import ServerRoutes

Json = dict[str, JsonValue]
_PAGE = 200
_HERE = "or unset PREFECT_API_URL: `trtflow run` needs no server, `trtflow up` starts one"


class Api:
    """Calls routes of one Prefect API; threads may share it."""

    def __init__(self, client: "SyncPrefectClient") -> None:
        self.client = client

    def send(self, method: Literal["POST", "PUT", "PATCH"], route: "ServerRoutes", body: Json) -> Json:
        """Send a body; returns the answer, which may be empty."""
        answer = self._request(method, route, json=body)
        found: Json = answer.json() if answer.content else {}
        return found

    def change(
        self, method: Literal["POST", "PUT", "PATCH", "DELETE"], route: "ServerRoutes", key: str, body: Json
    ) -> None:
        """Change or delete one thing."""
        self._request(method, route, path_params={"id": key}, **({"json": body} if body else {}))

    def all(self, route: "ServerRoutes", **question: JsonValue) -> list[Json]:
        """Everything that a filter finds, page by page."""
        found: list[Json] = []
        while True:
            body = {**question, "limit": _PAGE, "offset": len(found)}
            page: list[Json] = self._request("POST", route, json=body).json()
            found += page
            if len(page) < _PAGE:
                return found

    def _request(self, method: Any, route: "ServerRoutes", **more: Any) -> Any:  # noqa: ANN401 - httpx's own
        from httpx import HTTPStatusError, RequestError

        try:
            return self.client.request(method, route, **more)
        except HTTPStatusError as error:
            said = error.response.text[:600]
            message = (
                f"the Prefect API refused {method} {error.request.url.path} ({error.response.status_code}): {said}"
            )
            raise TrtflowError(message, "see the server's log") from error
        except RequestError as error:
            raise unreachable(str(self.client.api_url), error) from error


def unreachable(url: str, reason: object) -> TrtflowError:
    """What is said of an API that does not answer."""
    cure = f"start it (trtflow up, or prefect server start), correct PREFECT_API_URL, {_HERE}"
    return TrtflowError(f"the Prefect API at {told_url(url)} does not answer: {reason}", cure)


@contextlib.contextmanager
def open_api() -> Iterator[Api]:
    """Connect to the configured API; raise what is wrong with it before anything is sent."""
    from flows.prefect_settings import keep_quiet

    keep_quiet()
    check_api(required_url())
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield Api(client)


def required_url() -> str:
    """The API that the environment names."""
    url = os.environ.get("PREFECT_API_URL", "")
    if not url:
        cure = "set it, as PREFECT_API_URL=http://127.0.0.1:4200/api, or start a server of your own: trtflow up"
        raise ConfigError("no Prefect API is configured: PREFECT_API_URL is not set", cure)
    return url


def check_api(url: str) -> str:
    """Ask the API for its version, and return it; raise if it is down, refuses us, or does not fit."""
    import httpx

    try:
        answer = httpx.get(f"{url.rstrip('/')}/admin/version", headers=_login(), timeout=10, follow_redirects=True)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise unreachable(url, error) from error
    if answer.status_code in (401, 403):
        cure = "set PREFECT_API_AUTH_STRING=user:password as the server has it in PREFECT_SERVER_API_AUTH_STRING"
        raise ConfigError(
            f"the Prefect API at {told_url(url)} does not let us in ({answer.status_code})", f"{cure}, {_HERE}"
        )
    found = re.fullmatch(r'"(\d+)\.(\d+)\.[^"]*"', answer.text.strip())
    if answer.is_error or found is None:
        raise unreachable(url, f"{answer.status_code}, and not as Prefect does; the address ends in /api")
    _check_version(url, answer.text.strip().strip('"'))
    return answer.text.strip().strip('"')


def _check_version(url: str, theirs: str) -> None:
    """A server of the same major version that is no older takes what this client sends."""
    from importlib.metadata import version

    ours = version("prefect")
    mine, other = (tuple(int(part) for part in text.split(".")[:2]) for text in (ours, theirs))
    if mine[0] == other[0] and mine <= other:
        return
    how = "older" if other < mine else "newer"
    cure = f"upgrade the server to {ours}, or install prefect=={theirs} here" if how == "older" else "upgrade trtflow"
    raise ConfigError(
        f"the Prefect server at {told_url(url)} is {theirs}, {how} than the {ours} that runs here", f"{cure}, {_HERE}"
    )


def _login() -> dict[str, str]:
    """What Prefect's own client sends: of the environment, or of its profile."""
    from prefect.settings import get_current_settings

    api = get_current_settings().api
    if api.auth_string is not None:
        coded = base64.b64encode(api.auth_string.get_secret_value().encode()).decode()
        return {"Authorization": f"Basic {coded}"}
    return {"Authorization": f"Bearer {api.key.get_secret_value()}"} if api.key is not None else {}
