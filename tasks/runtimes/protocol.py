"""What the parent and its workers say to each other: one JSON object a line, with a `protocol_version` in each."""

import errno
import importlib
import inspect
import json
import os
import traceback
from collections.abc import Callable, Generator
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, assert_never, get_args, get_origin, get_type_hints

from pydantic import BaseModel, Field, JsonValue, TypeAdapter

from tasks.core.errors import (
    ArtifactDamaged,
    CannotRun,
    ConfigError,
    DoesNotApply,
    NotMade,
    PromotionError,
    RemoteDamaged,
    RemoteRefused,
    StepError,
    StoreError,
    TrtflowError,
    TrustError,
    UserCodeError,
    Where,
    WorkerError,
)
from tasks.core.frozen import Frozen

MAX_FRAME_BYTES = 64 * 1024 * 1024
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
ALLOWED_PREFIX = "tasks."

Kind: TypeAlias = Literal[
    "TrtflowError",
    "ConfigError",
    "StepError",
    "UserCodeError",
    "CannotRun",
    "DoesNotApply",
    "WorkerError",
    "StoreError",
    "RemoteRefused",
    "RemoteDamaged",
    "ArtifactDamaged",
    "PromotionError",
    "TrustError",
    "NotMade",
]
# What a worker runs is known by its annotations only, which `types_of` reads and checks.
Work: TypeAlias = Callable[[Any], object]


class Failure(Frozen):
    """An error on its way from a worker to the parent; `where` belongs to ConfigError, `folder` to ArtifactDamaged."""

    kind: Kind
    message: str
    cure: str = ""
    detail: str = ""
    where: Where | None = None
    folder: str = ""


class Request(Frozen):
    """Run a function, or answer the open conversation of that function."""

    protocol_version: Literal[1] = 1
    function: str
    request: JsonValue
    scratch: str | None = None


class Done(Frozen):
    """The function returned, or the conversation yielded."""

    protocol_version: Literal[1] = 1
    status: Literal["done"] = "done"
    reply: JsonValue = None


class Failed(Frozen):
    """The function raised."""

    protocol_version: Literal[1] = 1
    status: Literal["failed"] = "failed"
    error: Failure


class Ended(Frozen):
    """How a worker's process ended: `status` as os.wait reports it, or the `reason` why there is none."""

    protocol_version: Literal[1] = 1
    status: int = 0
    peak_rss_bytes: int = 0
    reason: str = ""


Answer: TypeAlias = Annotated[Done | Failed, Field(discriminator="status")]
_ANSWER: TypeAdapter[Done | Failed] = TypeAdapter(Answer)


class Types(NamedTuple):
    """The models that a function takes and gives; `sent` is what a conversation takes after its opening."""

    request: type[BaseModel]
    reply: type[BaseModel]
    sent: type[BaseModel] | None = None


def encode(frame: Request | Done | Failed | Ended) -> bytes:
    """Write a frame as one line; json and not pydantic, which would write NaN and infinity as null."""
    return json.dumps(frame.model_dump(mode="json"), ensure_ascii=False).encode() + b"\n"


def jsonable(model: BaseModel) -> JsonValue:
    """Turn a model into JSON values from which its class can be read back."""
    values: JsonValue = model.model_dump(mode="json", by_alias=True, round_trip=True)
    return values


def decode_answer(line: bytes) -> Done | Failed:
    """Read an answer; anything else is a ValidationError."""
    return _ANSWER.validate_json(line)


def read_model(model: type[BaseModel], values: JsonValue) -> BaseModel:
    """Read a model out of a frame, as JSON: so strict models accept what JSON has no type for."""
    return model.model_validate_json(json.dumps(values))


def name_of(function: Work) -> str:
    """Give the reference `module:name` of a top-level function under `tasks.`."""
    name = f"{function.__module__}:{function.__qualname__}"
    if resolve(name) is not function:
        raise WorkerError(f"{name} is not what its module calls by that name", "give the top-level function itself")
    return name


def resolve(name: str) -> Work:
    """Find a function by its reference; a worker runs nothing but top-level functions of modules under `tasks.`."""
    module, _, attribute = name.partition(":")
    if not module.startswith(ALLOWED_PREFIX):
        raise WorkerError(f"a worker does not run {name!r}", f"only functions of modules under {ALLOWED_PREFIX!r} run")
    function = getattr(importlib.import_module(module), attribute, None)
    if not inspect.isfunction(function) or function.__module__ != module:
        raise WorkerError(f"{name!r} is no top-level function of its module", "a worker finds functions by their name")
    return function


@cache
def types_of(function: Work) -> Types:
    """Read the models that a function takes and gives from its annotations."""
    name = f"{function.__module__}:{function.__qualname__}"
    try:
        hints = get_type_hints(function)
    except NameError as error:
        raise WorkerError(
            f"the annotations of {name} cannot be read: {error}", "import their types at run time"
        ) from error
    reply = hints.pop("return", None)
    parts = get_args(reply) if get_origin(reply) is Generator else (reply,)
    models = [*hints.values(), *parts[:2]]
    if len(hints) != 1 or not all(isinstance(model, type) and issubclass(model, BaseModel) for model in models):
        raise WorkerError(f"{name} must take one pydantic model and return one, or be a generator of them")
    return Types(*models)


def failure_of(error: BaseException, function: str) -> Failure:
    """Put any error into words that make sense without its traceback, which goes into the detail."""
    trace = "".join(traceback.format_exception(error))
    chain = _chain(error)
    full = next((link for link in chain if _is_disk_full(link)), None)
    if full is not None:
        place = getattr(full, "filename2", None) or getattr(full, "filename", None)
        message = f"{function} failed: disk full" + (f" (writing {place})" if place else "")
        return Failure(kind="StepError", message=message, cure="free some space, then run again", detail=trace)
    if isinstance(error, TrtflowError):
        return _own_failure(error, trace)
    if isinstance(error, SystemExit):
        return Failure(kind="StepError", message=f"{function} called sys.exit({error.code!r})", detail=trace)
    if any(isinstance(link, MemoryError) for link in chain):
        cure = "use a smaller batch or model, or a machine with more memory"
        return Failure(kind="StepError", message=f"{function} ran out of memory", cure=cure, detail=trace)
    root = error
    while root.__cause__ is not None:
        root = root.__cause__
    words = ": ".join([type(root).__name__, *str(root).strip().splitlines()[:1]])
    return Failure(kind="StepError", message=f"{function} failed: {words}", detail=trace)


def _is_disk_full(error: BaseException) -> bool:
    """Whether an error, also one of a library that has no class for it, says that nothing more can be written."""
    if isinstance(error, OSError):
        return error.errno in _DISK_FULL
    return any(os.strerror(number) in str(error) for number in _DISK_FULL)


def error_of(failure: Failure) -> TrtflowError:
    """Make the error again that a worker raised."""
    error = _rebuild(failure)
    error.cure = failure.cure
    error.detail = failure.detail
    return error


def _rebuild(failure: Failure) -> TrtflowError:  # noqa: C901, PLR0911, PLR0912  one arm for each class
    message = failure.message
    match failure.kind:
        case "TrtflowError":
            return TrtflowError(message)
        case "ConfigError":
            return ConfigError(message, where=failure.where)
        case "StepError":
            return StepError(message)
        case "UserCodeError":
            return UserCodeError(message)
        case "CannotRun":
            return CannotRun(message)
        case "DoesNotApply":
            return DoesNotApply(message)
        case "WorkerError":
            return WorkerError(message)
        case "StoreError":
            return StoreError(message)
        case "RemoteRefused":
            return RemoteRefused(message)
        case "RemoteDamaged":
            return RemoteDamaged(message)
        case "ArtifactDamaged":
            return ArtifactDamaged(message, failure.folder)
        case "PromotionError":
            return PromotionError(message)
        case "TrustError":
            return TrustError(message)
        case "NotMade":
            return NotMade(message)
        case _:
            assert_never(failure.kind)


def _own_failure(error: TrtflowError, trace: str) -> Failure:
    known: dict[str, Kind] = {kind: kind for kind in get_args(Kind)}
    # A class that is not of core/errors.py travels as the nearest one that is.
    kind = next(known[base.__name__] for base in type(error).__mro__ if base.__name__ in known)
    return Failure(
        kind=kind,
        message=error.message,
        cure=error.cure,
        detail=error.detail or trace,
        where=error.where if isinstance(error, ConfigError) else None,
        folder=error.folder if isinstance(error, ArtifactDamaged) else "",
    )


def _chain(error: BaseException) -> list[BaseException]:
    """List an error and all that led to it, also what was merely being handled when it was raised."""
    chain = [error]
    while True:
        last = chain[-1]
        cause = last.__cause__ or (None if last.__suppress_context__ else last.__context__)
        if cause is None or any(cause is link for link in chain):
            return chain
        chain.append(cause)
