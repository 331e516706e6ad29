"""The request that made an artifact, kept beside it so that it can be run again, here or elsewhere."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, JsonValue

from tasks.core.errors import ConfigError, StoreError
from tasks.core.frozen import Frozen
from tasks.runtimes.isolate import Home

REQUEST = "request.json"
STORE = "${STORE}"


class KeptCall(Frozen):
    """What a worker was asked: the function, its request, and the modules that its process had imported.

    `python` is the interpreter, where that was another than trtflow's own.
    """

    function: str
    preload: tuple[str, ...]
    request: dict[str, JsonValue]
    python: str = ""

    def home(self, places: "Places") -> Home:
        """Where it is asked again."""
        python = places.show({"python": self.python})["python"]
        return Home(self.preload, str(python)) if self.python else Home(self.preload)


class KeptRequest(Frozen):
    """The request.json of an artifact: all that workers were asked for it, in that order.

    `files` says of each file that was there before, or was laid beside what they made, which file it is.
    """

    schema_version: Literal[1] = 1
    calls: tuple[KeptCall, ...]
    files: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True)
class Places:
    """The folders that a request names; in the kept request they are placeholders, so that it can move."""

    store: Path
    project: Path
    out: Path

    def _pairs(self) -> tuple[tuple[str, str], ...]:
        # The step's folder lies in the store and the store in the project: the longest goes first.
        return ((str(self.out), "${OUT}"), (str(self.store), STORE), (str(self.project), "${PROJECT}"))

    def hide(self, request: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Replace folders by placeholders."""
        return _replaced(request, self._pairs())

    def show(self, request: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Replace placeholders by folders."""
        return _replaced(request, tuple((name, place) for place, name in self._pairs()))


def _replaced(request: dict[str, JsonValue], pairs: tuple[tuple[str, str], ...]) -> dict[str, JsonValue]:
    return {key: _replace(item, pairs) for key, item in request.items()}


def _replace(value: JsonValue, pairs: tuple[tuple[str, str], ...]) -> JsonValue:
    if isinstance(value, dict):
        return _replaced(value, pairs)
    if isinstance(value, list):
        return [_replace(item, pairs) for item in value]
    if isinstance(value, str):
        for old, new in pairs:
            if value == old or value.startswith(f"{old}/"):
                return new + value.removeprefix(old)
    return value


def keep_request(folder: Path, home: Home, function: Callable[..., object], request: Frozen, places: Places) -> None:
    """Add what a worker is asked to the request.json of a step's folder."""
    before = _kept_so_far(folder)
    name = f"{function.__module__}:{function.__qualname__}"
    asked = places.hide(request.model_dump(mode="json"))
    python = "" if home.python == sys.executable else str(places.hide({"python": home.python})["python"])
    call = KeptCall(function=name, preload=home.preload, request=asked, python=python)
    _keep(folder, before.model_copy(update={"calls": (*before.calls, call)}))


def keep_file(folder: Path, name: str, source: Path, places: "Places") -> None:
    """Add to the request.json of a step's folder which file another one of the folder is."""
    before = _kept_so_far(folder)
    _keep(folder, before.model_copy(update={"files": {**before.files, **places.hide({name: str(source)})}}))


def _kept_so_far(folder: Path) -> KeptRequest:
    return read_request(folder) if (folder / REQUEST).exists() else KeptRequest(calls=())


def _keep(folder: Path, kept: KeptRequest) -> None:
    (folder / REQUEST).write_text(kept.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_request(folder: Path) -> KeptRequest:
    """Read an artifact's request.json."""
    try:
        return KeptRequest.model_validate_json((folder / REQUEST).read_bytes())
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder.parent.name} keeps no request: it measures this host, and would never find the same again",
            "name an artifact of another step",
        ) from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder / REQUEST} is not a request of this version of trtflow", "run again") from error
