"""A few calls to a Prefect API by the standard library alone, with errors that say what to do."""

import base64
import json
import logging
import os
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from typing import IO, TypeAlias
from urllib.parse import quote, unquote, urlsplit

from tasks.core.errors import ConfigError, TrtflowError

log = logging.getLogger(__name__)
Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"
_DEFAULT = "http://127.0.0.1:4200/api"
_TIMEOUT_S = 20.0
_POLL_S = 1.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")
_BUSY = frozenset({502, 503, 504})
_HERE = "or convert it in this process, without a server: trtflow run NAME --checkpoint PATH"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """An answer that leads elsewhere is an error: what is posted would be lost, and a password told to another."""

    def redirect_request(  # noqa: PLR0913, PLR0917 - as urllib calls it
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> None:
        del req, fp, code, msg, headers, newurl


@dataclass(frozen=True)
class PrefectHttp:
    """One API at `url`; `login` is the value of the header Authorization, empty for none."""

    url: str
    login: str
    patience_s: float

    @classmethod
    def of(cls, url: str | None, auth: str | None, patience_s: float) -> "PrefectHttp":
        """Fill in from the environment what is not given."""
        place = url or os.environ.get("PREFECT_API_URL") or _DEFAULT
        try:
            parts = urlsplit(place)
            host, user, password = parts.hostname, parts.username, parts.password
        except ValueError as error:
            raise _no_address(place) from error
        if parts.scheme not in ("http", "https") or not host:
            raise _no_address(place)
        if user and auth is None:
            auth = f"{unquote(user)}:{unquote(password or '')}"
        plain = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        return cls(plain.rstrip("/"), _login(auth), patience_s)

    @property
    def host(self) -> str | None:
        """Who is asked; one of LOOPBACK is behind no proxy."""
        return urlsplit(self.url).hostname

    def get(self, path: str) -> Json:
        """Ask for a deployment; None where there is none."""
        return self._answer("GET", path, None)

    def post(self, path: str, body: object) -> Json:
        """Send a body; None where the answer is empty."""
        return self._answer("POST", path, json.dumps(body).encode())

    def _answer(self, method: str, path: str, body: bytes | None) -> Json:
        headers = {"Content-Type": "application/json", **({"Authorization": self.login} if self.login else {})}
        request = urllib.request.Request(  # noqa: S310 - http or https, which was checked
            self.url + quote(path), body, headers, method=method
        )
        deadline, told = time.monotonic() + self.patience_s, False
        while True:
            try:
                text = self._send(request)
                return json.loads(text) if text else None
            except urllib.error.HTTPError as error:
                if error.code == 404 and method == "GET" and b"Deployment not found" in error.read():  # noqa: PLR2004
                    return None
                problem = _refused(self.url, error)
                busy = error.code in _BUSY
                error.close()
            except (OSError, HTTPException) as error:
                said = getattr(error, "reason", None) or error
                problem, busy = _silent(self.url, said), True
            except ValueError:
                raise ConfigError(f"what answers at {self.url} is no Prefect API", _address_cure()) from None
            if not busy or time.monotonic() > deadline:
                raise problem
            if not told:
                log.warning("%s; asked again for up to %.0f s", problem.message, self.patience_s)
            told = True
            time.sleep(_POLL_S)

    def _send(self, request: urllib.request.Request) -> bytes:
        handlers = [_NoRedirect(), *([urllib.request.ProxyHandler({})] if self.host in LOOPBACK else [])]
        with urllib.request.build_opener(*handlers).open(request, timeout=_TIMEOUT_S) as answer:
            content: bytes = answer.read()
        return content


def _login(auth: str | None) -> str:
    auth = auth or os.environ.get("PREFECT_API_AUTH_STRING")
    if auth:
        return f"Basic {base64.b64encode(auth.encode()).decode()}"
    key = os.environ.get("PREFECT_API_KEY")
    return f"Bearer {key}" if key else ""


def _refused(url: str, error: urllib.error.HTTPError) -> TrtflowError:
    if error.code in (401, 403):
        cure = "set PREFECT_API_AUTH_STRING=user:password, as the server has it in PREFECT_SERVER_API_AUTH_STRING"
        return ConfigError(f"the Prefect API at {url} does not let us in ({error.code})", cure)
    if 300 <= error.code < 400:  # noqa: PLR2004 - redirections
        return ConfigError(f"{url} leads on to {error.headers.get('Location')}", "give that address, up to its /api")
    said = f"{error.code} {error.reason}"
    if error.code in (404, 405):
        return ConfigError(f"what answers at {url} is no Prefect API: {said}", _address_cure())
    return TrtflowError(f"the Prefect API at {url} did not take it: {said}", f"see the server's log, {_HERE}")


def _silent(url: str, reason: object) -> TrtflowError:
    cure = f"start it (trtflow up), correct PREFECT_API_URL, {_HERE}"
    return TrtflowError(f"the Prefect API at {url} does not answer: {reason}", cure)


def _no_address(url: str) -> ConfigError:
    return ConfigError(f"{url.rpartition('@')[2]!r:.200} is no address of a Prefect API", _address_cure())


def _address_cure() -> str:
    return f"set PREFECT_API_URL, which ends in /api: {_DEFAULT}"
