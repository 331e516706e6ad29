"""Ed25519 keys of those who promote: made, read from PEM files, and used to sign and to check."""

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.frozen import Frozen

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_KEY_ID = 16
# A key is a few hundred bytes; a file that is longer is something else, and is not read to its end.
_LONGEST_PEM = 65_536
_MADE_BY = "`trtflow keygen` makes a pair"


class KeySignature(Frozen):
    """A signature, and which key it says it was made with; `value` is base64."""

    key_id: str
    value: str


class KeyFileError(Exception):
    """A file is not the key that it is taken for."""

    def __init__(self, message: str, cure: str) -> None:
        super().__init__(message)
        self.message = message
        self.cure = cure


@dataclass(frozen=True)
class PublicKey:
    """A key to check signatures with; `id` names it in records and messages."""

    id: str
    key: "Ed25519PublicKey" = field(repr=False, compare=False)

    def signed(self, signature: KeySignature, payload: bytes) -> bool:
        """Whether the holder of the private half signed exactly this."""
        from cryptography.exceptions import InvalidSignature

        try:
            self.key.verify(base64.b64decode(signature.value, validate=True), payload)
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    """A private key, with its public half."""

    public: PublicKey
    key: "Ed25519PrivateKey" = field(repr=False, compare=False)

    def sign(self, payload: bytes) -> KeySignature:
        """Sign the bytes."""
        return KeySignature(key_id=self.public.id, value=base64.b64encode(self.key.sign(payload)).decode())


@dataclass(frozen=True)
class PemPair:
    """A new pair of keys as text."""

    private: bytes = field(repr=False)
    public: bytes
    key_id: str


def new_pair() -> PemPair:
    """Make a pair of keys."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    return PemPair(private, public, _public(key.public_key()).id)


def read_signing_key(path: Path) -> SigningKey:
    """Read a private key that nobody but its owner can read."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = _pem(path, private=True)
    try:
        key = load_pem_private_key(pem, None)
    except TypeError as error:
        raise KeyFileError(
            f"{path} is locked by a passphrase, and runs have nobody to ask for it",
            f"use a key without one, in a file that only you can read; {_MADE_BY}",
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} is no private key in PEM", _MADE_BY) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyFileError(f"{path} is not an ed25519 key", _MADE_BY)
    return SigningKey(_public(key.public_key()), key)


def read_public_key(path: Path) -> PublicKey:
    """Read a public key."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    pem = _pem(path, private=False)
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyFileError(f"{path} is no public key in PEM", _MADE_BY) from error
    if not isinstance(key, Ed25519PublicKey):
        raise KeyFileError(f"{path} is not an ed25519 key", _MADE_BY)
    return _public(key)


def _public(key: "Ed25519PublicKey") -> PublicKey:
    return PublicKey(hashlib.sha256(key.public_bytes_raw()).hexdigest()[:_KEY_ID], key)


def _pem(path: Path, *, private: bool) -> bytes:
    """Read a key's file; the other half of a pair is named for what it is, whatever else may be wrong with it."""
    try:
        with path.open("rb") as stream:
            pem = stream.read(_LONGEST_PEM)
            status = os.fstat(stream.fileno())
    except OSError as error:
        raise KeyFileError(f"{path} cannot be read: {error.strerror}", "let it be read by this user") from error
    if private and b"PUBLIC KEY-----" in pem:
        raise KeyFileError(f"{path} is a public key, expected the private one", "name the .key file of the pair")
    if not private and b"PRIVATE KEY-----" in pem:
        raise KeyFileError(
            f"{path} is a private key, expected the public one",
            "name the .pub file of the pair, and make a new pair if others have seen this one",
        )
    # As ssh does: what somebody else owns, as a secret that is mounted, is not ours to close.
    if private and status.st_uid == os.getuid() and status.st_mode & 0o077:
        raise KeyFileError(f"{path} can be read by others (mode {status.st_mode & 0o777:04o})", f"chmod 600 {path}")
    return pem
