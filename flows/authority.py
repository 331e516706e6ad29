"""Who signs and who is trusted: the keys that the YAML and the environment name, read once for a command."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tasks.core.config import Config
from tasks.core.config_fields import Problem
from tasks.core.errors import ConfigError
from tasks.core.names import file_problems
from tasks.core.paths import absolute_path
from tasks.core.signing import KeyFileError, PublicKey, SigningKey, read_public_key, read_signing_key
from tasks.core.trust import Authority
from tasks.core.yaml_source import config_error, locate

if TYPE_CHECKING:
    from flows.options import Options

SIGNING_KEY = "TRTFLOW_SIGNING_KEY"
K = TypeVar("K")


def authority_of(config: Config, options: "Options", *, signs: bool = False) -> Authority:
    """Read the keys; raise one ConfigError for all that is wrong with them. A command that `signs` needs its own."""
    problems: list[Problem] = []
    trusted = [
        _key(read_public_key, options.project, text, ("trust", index), problems)
        for index, text in enumerate(config.trust or ())
    ]
    signer = _signer(config, options, problems) if signs else None
    authority = Authority(signer, tuple(key for key in trusted if key))
    if not problems and signs:
        problems += _conflicts(authority, os.environ.get(SIGNING_KEY))
    if problems:
        raise config_error(options.file, [(locate(options.file, each.path).line, each) for each in problems])
    return authority


def public_keys(texts: list[str]) -> tuple[PublicKey, ...]:
    """Read the keys that a command line names."""
    problems: list[Problem] = []
    keys = [_key(read_public_key, Path.cwd(), text, (), problems) for text in texts]
    for problem in problems:
        raise ConfigError(f"--key: {problem.message}", problem.cure)
    return tuple(key for key in keys if key)


def _signer(config: Config, options: "Options", problems: list[Problem]) -> SigningKey | None:
    named = os.environ.get(SIGNING_KEY)
    if named:
        found: list[Problem] = []
        signer = _key(read_signing_key, Path.cwd(), named, (), found)
        for problem in found:
            raise ConfigError(f"{SIGNING_KEY}: {problem.message}", problem.cure)
        return signer
    if config.signing is None:
        return None
    return _key(read_signing_key, options.project, config.signing.key, ("signing", "key"), problems)


def _conflicts(authority: Authority, from_environment: str | None) -> Iterator[Problem]:
    """What cannot be, although every key is one: what is signed here would be refused here."""
    if not authority.trusted:
        return
    if authority.signer is None:
        cure = f"name the private key: signing: {{key: PATH}}, or {SIGNING_KEY}=PATH; `trtflow keygen` makes a pair"
        yield Problem("'trust' asks for signed promotions, and there is no key to sign with", cure, ("trust",))
    elif authority.signer.public not in authority.trusted:
        source = SIGNING_KEY if from_environment else "signing.key"
        ids = ", ".join(key.id for key in authority.trusted)
        message = f"promotions would be signed by {authority.signer.public.id} ({source}), trusted are {ids}"
        yield Problem(message, "add its .pub file to trust, or sign with a key that is trusted", ("trust",))


def _key(
    read: Callable[[Path], K], folder: Path, text: str, place: tuple[str | int, ...], problems: list[Problem]
) -> K | None:
    """Read one key; what is wrong with it is added to `problems`."""
    try:
        path = absolute_path(text, folder)
    except ConfigError as error:
        problems.append(Problem(error.message, error.cure, place))
        return None
    found = [problem._replace(path=place) for problem in file_problems(folder, str(path))]
    if found:
        problems += found
        return None
    try:
        return read(path)
    except KeyFileError as error:
        problems.append(Problem(error.message, error.cure, place))
        return None
