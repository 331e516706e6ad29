"""Who signs promotions, whose signatures count, and whether a promotion and its engine are what was signed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.digests import canonical, sha256_file
from tasks.core.errors import TrustError
from tasks.core.signing import PublicKey, SigningKey

if TYPE_CHECKING:
    from tasks.core.promotions import Promotion

# Says what is signed, so that a signature means nothing in any other place.
_DOMAIN = "trtflow promotion v1\n"


@dataclass(frozen=True)
class Authority:
    """Who signs here, and whose signatures count; without `trusted` no signature is asked for."""

    signer: SigningKey | None = None
    trusted: tuple[PublicKey, ...] = ()

    def sign(self, record: "Promotion") -> "Promotion":
        """Sign a record, if there is a key to sign with."""
        if self.signer is None:
            return record
        return record.model_copy(update={"signature": self.signer.sign(payload(record))})


def payload(record: "Promotion") -> bytes:
    """Give the bytes that are signed: all of the record but its signature.

    Empty fields (null, false, "", {}) are left out, so that a later version can add one and still check old records.
    """
    told = record.model_dump(mode="json", exclude={"signature"})
    return (_DOMAIN + canonical({name: value for name, value in told.items() if value})).encode()


def signature_problem(record: "Promotion", keys: Sequence[PublicKey]) -> str:
    """Say what is wrong with a record's signature; empty where one of `keys` signed all of the record."""
    signature = record.signature
    if signature is None:
        return "unsigned"
    named = [key for key in keys if key.id == signature.key_id]
    if not named:
        return f"signed by an unknown key {signature.key_id!r}"
    if not any(key.signed(signature, payload(record)) for key in named):
        return "altered: it is not what was signed"
    return ""


def history_problems(
    history: Sequence[tuple[str, str, "Promotion"]], pipeline: str, keys: Sequence[PublicKey]
) -> Iterator[tuple[str, str]]:
    """List what is wrong with a pipeline's records, given as (file name, sha256, record), oldest first.

    Each names its own file and the one before it, with its digest: so a record that was copied, moved, brought from
    another store or removed from the middle is found. Two may follow the same one, where two hosts promoted at once.
    """
    seen: dict[str, str] = {}
    for name, digest, record in history:
        problem = signature_problem(record, keys)
        before = record.previous
        if problem:
            yield name, problem
        elif (record.pipeline, record.name) != (pipeline, name):
            yield name, f"a copy of {record.name or 'a record without a name'} of {record.pipeline}"
        elif before is None and seen:
            yield name, "signed as the first record, and there are older ones"
        elif before is not None and seen.get(before.name) != before.sha256:
            state = "altered" if before.name in seen else "missing"
            yield name, f"signed as the one after {before.name}, which is {state}"
        seen[name] = digest


def engine_problems(root: Path, record: "Promotion") -> Iterator[str]:
    """List what is not as signed of the engine that a record put in force, in the store at `root`."""
    folder = root / record.artifact
    try:
        inside = folder.resolve().is_relative_to(root.resolve())
    except (OSError, ValueError, RuntimeError):  # a name that none can have, or links in a circle
        inside = False
    if inside:
        yield from file_problems(folder, record.files)
    else:
        yield f"its artifact {record.artifact!r:.99} is not in the store"


def file_problems(folder: Path, files: dict[str, str]) -> Iterator[str]:
    """List the files of an engine that are not what was signed."""
    if not files:
        yield "the record names no files of the engine"
    for name, digest in files.items():
        found = _digest(folder / name) if Path(name).name == name else None
        if found is None:
            yield f"{name[:99]} is missing"
        elif found != digest:
            yield f"{name} was altered"


def _digest(path: Path) -> str | None:
    try:
        return sha256_file(path) if path.is_file() else None
    except (OSError, ValueError):  # not to be read, or a name that none can have
        return None


def require(root: Path, pipeline: str, problems: Iterable[tuple[str, str]]) -> None:
    """Raise TrustError for the first problem of a pipeline's records."""
    folder = root / pipeline / "promotions"
    for name, problem in problems:
        raise TrustError(
            f"{folder / name} cannot be trusted: {problem}",
            f"find out who wrote it. If `trust:` is new here, or a key was withdrawn: move {folder} aside, "
            f"and run again, which signs what it promotes: trtflow run {pipeline}",
        )


def trusted(root: Path, record: "Promotion", authority: Authority) -> None:
    """Raise TrustError unless the engine of `record` may be used: call this before an engine in force is opened.

    Where the YAML asks for trust, the signature must be that of a trusted key and every file of the engine what it
    signs. The store lies at `root`. Where no trust is asked for, every engine may be used.
    """
    if not authority.trusted or not record.key:
        return
    problem = signature_problem(record, authority.trusted) or next(engine_problems(root, record), "")
    if problem:
        raise TrustError(
            f"{record.id} of {record.pipeline} ({record.key[:12]}) is not used: {problem}",
            f"`trust:` asks for what was signed: put the files in {root / record.artifact} back, "
            f"or promote an engine that passed: trtflow promote {record.pipeline} ID",
        )
