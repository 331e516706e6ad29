"""What went wrong between here and a remote store, in one paragraph, whichever driver said it in whichever way."""

import errno
import re
from urllib.parse import urlsplit, urlunsplit

from tasks.core.errors import RemoteRefused, StoreError

# By name: the classes are those of a driver's own libraries, of which none is imported for their sake.
_NO_CREDENTIALS = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "ProfileNotFound",
        "TokenRetrievalError",
    }
)
_NO_ANSWER = frozenset(
    {
        "EndpointConnectionError",
        "ConnectTimeoutError",
        "ReadTimeoutError",
        "ConnectionClosedError",
        "ProxyConnectionError",
        "HTTPClientError",
        "FSTimeoutError",
        "ClientConnectorError",
    }
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_QUERY = re.compile(r"(\w://[^\s?'\"]*\?)[^\s'\"]+")


def shown(url: str) -> str:
    """The URL without a user name and password, to be told."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def told_url(url: str) -> str:
    """A URL in a message: without a password, without what signs it, and on one line."""
    try:
        return without_queries(shown(url)) if url.isprintable() else f"{url!r}"
    except ValueError:  # half an address
        return f"{url!r}"


def without_queries(text: str) -> str:
    """A message without the queries of the URLs in it: that of a pre-signed one opens the file to whoever reads it."""
    return _QUERY.sub(r"\1...", text)


def translated(error: Exception, url: str, doing: str) -> StoreError:
    """The error to raise for one that a driver raised while it was `doing` something."""
    place = f"the store at {shown(url)}"
    names = {type(cause).__name__ for cause in _causes(error)}
    code = code_of(error)
    if code == "NoSuchBucket":
        return RemoteRefused(f"{place}: there is no such bucket", "create it, or correct the name in `store`")
    if names & _NO_CREDENTIALS:
        cure = (
            "log in (for S3: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE), see The store in README.md"
        )
        return RemoteRefused(f"{place} asks for credentials, and there are none", cure)
    if isinstance(error, PermissionError):
        said = code or error.strerror or str(error)
        return RemoteRefused(
            f"{place} does not permit {doing}: {said}",
            "check the credentials and the rights that they have, or choose another place with --store",
        )
    if names & _NO_ANSWER or isinstance(error, ConnectionError | TimeoutError):
        cure = (
            "check the network, and the address in AWS_ENDPOINT_URL_S3 if it is set; what is made so far is kept here"
        )
        return StoreError(f"{place} does not answer, while {doing}", cure, str(error))
    if isinstance(error, OSError) and error.errno in _FULL:
        return StoreError(f"{place} is full, while {doing}", "free some space there: `trtflow gc` does", str(error))
    said = str(error) or type(error).__name__
    return StoreError(f"{place} failed, while {doing}: {said}", "run again to go on from what is made so far", said)


def code_of(error: BaseException) -> str:
    """The code of an S3 server's answer, which drivers keep in the error that theirs was made from."""
    for cause in _causes(error):
        response = getattr(cause, "response", None)
        if isinstance(response, dict):
            return str(response.get("Error", {}).get("Code", ""))
    return ""


def _causes(error: BaseException | None) -> list[BaseException]:
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
