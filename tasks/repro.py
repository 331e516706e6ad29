"""The request that made an artifact, kept beside it so that it can be run again, here or elsewhere."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from tasks.core.errors import StoreError
from tasks.core.frozen import Frozen
from tasks.runtimes.isolate import Home

REQUEST = "request.json"


class KeptRequest(Frozen):
    """What a worker was asked: the function, its request, and the modules its process had imported."""

    function: str
    preload: tuple[str, ...]
    request: dict[str, JsonValue]


@dataclass(frozen=True)
class Places:
    """The folders that a request names; in the kept request they are placeholders, so that it can move."""

    store: Path
    project: Path
    out: Path

    def _pairs(self) -> tuple[tuple[str, str], ...]:
        # The step's folder lies in the store and the store in the project: the longest goes first.
        return ((str(self.out), "${OUT}"), (str(self.store), "${STORE}"), (str(self.project), "${PROJECT}"))

    def hide(self, value: JsonValue) -> JsonValue:
        """Replace folders by placeholders."""
        return _replace(value, self._pairs())

    def show(self, value: JsonValue) -> JsonValue:
        """Replace placeholders by folders."""
        return _replace(value, tuple((name, place) for place, name in self._pairs()))


def _replace(value: JsonValue, pairs: tuple[tuple[str, str], ...]) -> JsonValue:
    if isinstance(value, dict):
        return {key: _replace(item, pairs) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, pairs) for item in value]
    if isinstance(value, str):
        for old, new in pairs:
            if value == old or value.startswith(f"{old}/"):
                return new + value.removeprefix(old)
    return value


def keep_request(folder: Path, home: Home, function: Callable[..., object], request: JsonValue) -> None:
    """Write request.json into a step's folder."""
    kept = {
        "function": f"{function.__module__}:{function.__qualname__}",
        "preload": list(home.preload),
        "request": request,
    }
    (folder / REQUEST).write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


def read_request(folder: Path) -> KeptRequest:
    """Read an artifact's request.json."""
    try:
        return KeptRequest.model_validate_json((folder / REQUEST).read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(
            f"{folder} holds no request that could be run again", "name an artifact of a native step"
        ) from error
