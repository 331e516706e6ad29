"""What a training job calls to announce a checkpoint.

Standard library only: nothing else of trtflow need be installed, and Python 3.10 will do.

    from flows.hooks import model_retrained

    model_retrained("digits", "runs/best.safetensors")

It goes to the Prefect API that `PREFECT_API_URL` names, by default that of `trtflow up` on this machine.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from flows.events import Retrained, checked_sha256, deployment_title, is_url, trigger_name
from flows.prefect_http import PrefectHttp
from tasks.core.errors import ConfigError
from tasks.core.paths import absolute_path

_CHUNK = 1 << 20


@dataclass(frozen=True)
class Server:
    """Which API to tell. What is None is taken from the environment, under the names that Prefect itself uses.

    `auth` is user:password. `patience_s` is how long to keep trying where nothing answers: a server that is started
    anew is away for some seconds, and the end of a training comes once.
    """

    url: str | None = None
    auth: str | None = None
    patience_s: float = 30.0


def model_retrained(
    pipeline: str,
    checkpoint: str | Path,
    *,
    sha256: str | None = None,
    metadata: Mapping[str, str] | None = None,
    server: Server | None = None,
) -> Retrained:
    """Announce a checkpoint, and have its pipeline converted from it; returns what was sent.

    The digest of a file is taken here, so that a run converts these bytes or none. Raises TrtflowError if that cannot
    be: the file is missing or another than `sha256`, no server answers or lets us in, or it has no such pipeline.
    """
    text = str(checkpoint)
    announced = Retrained(pipeline, text, sha256, dict(metadata or {}))  # of now, before a large file is read
    announced = replace(announced, sha256=digest_of(text, sha256))
    server = server or Server()
    http = PrefectHttp.of(server.url, server.auth, server.patience_s)
    _check_listens(http, pipeline)
    http.post("/events", [announced.as_event()])
    return announced


def digest_of(checkpoint: str, sha256: str | None) -> str | None:
    """The digest of a file here; of a URL, what the caller says. Raise ConfigError where they differ."""
    given = None if sha256 is None else checked_sha256(sha256)
    if is_url(checkpoint) and not checkpoint.startswith(("file:///", "local:///")):
        return given
    path = absolute_path(checkpoint.removeprefix("file://").removeprefix("local://"))
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ConfigError(f"the checkpoint {checkpoint!r} is no file", "give the path of a file")
    try:
        with path.open("rb") as stream:
            found = _sha256(stream)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(f"there is no checkpoint {checkpoint!r}", "give the path of a file") from error
    except IsADirectoryError as error:
        raise ConfigError(f"the checkpoint {checkpoint!r} is a folder", "give the path of the file in it") from error
    except (OSError, ValueError) as error:
        raise ConfigError(f"the checkpoint {checkpoint!r} cannot be read: {error}", "let it be read") from error
    if given not in (None, found):
        raise ConfigError(
            f"the checkpoint {checkpoint!r} has the sha256 {found}, not {given}",
            "it was written to since, or the digest is of another file",
        )
    return found


def _sha256(stream: BinaryIO) -> str:
    digest = hashlib.sha256()
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _check_listens(http: PrefectHttp, pipeline: str) -> None:
    """Raise where a server would take the event, and do nothing."""
    title = deployment_title(pipeline)
    if http.get(f"/deployments/name/{title}") is None:
        raise ConfigError(
            f"the Prefect server at {http.url} has no deployment {title!r}",
            "correct the pipeline's name, or register it: trtflow up, or trtflow deploy",
        )
    found = http.post("/automations/filter", {"automations": {"name": {"any_": [trigger_name(pipeline)]}}})
    if not any(isinstance(each, dict) and each.get("enabled") for each in (found if isinstance(found, list) else ())):
        raise ConfigError(
            f"nothing at {http.url} waits for a retrained {pipeline!r}",
            "write on_retrain: true in its part of the YAML, then: trtflow up, or trtflow deploy",
        )
