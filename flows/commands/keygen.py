"""`trtflow keygen`: a pair of keys to sign promotions with."""

import json
import os
from argparse import Namespace
from pathlib import Path

from flows.options import Options
from tasks.core.config_fields import is_name
from tasks.core.errors import ConfigError, StoreError
from tasks.core.signing import new_pair

_SECRET, _OPEN = 0o600, 0o644


def command(parsed: Namespace, options: Options) -> int:
    """Write both halves, and say what to add to the YAML; a file that is there is never replaced."""
    if not is_name(parsed.name):
        raise ConfigError(f"{parsed.name!r} cannot be a name", "use letters, digits, '.', '_' or '-', without '..'")
    folder = Path(parsed.out).absolute()
    private, public = folder / f"{parsed.name}.key", folder / f"{parsed.name}.pub"
    pair = new_pair()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_new(private, pair.private, _SECRET)
        try:
            _write_new(public, pair.public, _OPEN)
        except OSError:
            private.unlink()
            raise
    except FileExistsError as error:
        raise ConfigError(
            f"{error.filename} is there already, and a key is never replaced", "choose another --name or --out"
        ) from error
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(f"cannot write a key to {parsed.out!r}: {reason}", "choose another --out") from error
    _tell(private, public, pair.key_id, options)
    return 0


def _write_new(path: Path, pem: bytes, mode: int) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(handle, "wb") as stream:
        stream.write(pem)
        stream.flush()
        os.fsync(stream.fileno())


def _tell(private: Path, public: Path, key_id: str, options: Options) -> None:
    if options.json:
        print(json.dumps({"private": str(private), "public": str(public), "key_id": key_id}))
        return
    print(f"private key {private}: it signs; keep it to yourself")
    print(f"public key  {public}: it checks; give it to whoever deploys")
    print(f"key id      {key_id}")
    print("In pipelines.yaml:")
    print(f"signing: {{key: {json.dumps(str(private))}}}")
    print(f"trust: [{json.dumps(str(public))}]")
