"""Keys are read only where they are what they are taken for, and a signature holds for exactly what was signed."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from tasks.core.signing import KeyFileError, KeySignature, new_pair, read_public_key, read_signing_key
from tests.signatures import make_pair

PEM, PKCS8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8


def secret(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "a.key"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_pair_signs_and_checks(tmp_path: Path) -> None:
    signer, public = make_pair(tmp_path)
    assert signer.public == public
    assert public.signed(signer.sign(b"text"), b"text")
    assert not public.signed(signer.sign(b"text"), b"texT")
    other, _ = make_pair(tmp_path, "other")
    assert other.public.id != public.id
    assert not public.signed(other.sign(b"text"), b"text")


@pytest.mark.parametrize("value", ["", "%%%", "AAAA", "é", "A" * 88, "=" * 4])
def test_what_is_no_signature_is_a_wrong_one(tmp_path: Path, value: str) -> None:
    _, public = make_pair(tmp_path)
    assert not public.signed(KeySignature(key_id=public.id, value=value), b"text")


def test_a_private_key_shows_nothing_of_itself(tmp_path: Path) -> None:
    signer, _ = make_pair(tmp_path)
    assert repr(signer) == f"SigningKey(public=PublicKey(id='{signer.public.id}'))"
    assert "PRIVATE" not in repr(new_pair())


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o610, 0o602])
def test_a_private_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = secret(tmp_path, new_pair().private, mode)
    with pytest.raises(KeyFileError, match=rf"can be read by others \(mode {mode:04o}\)") as caught:
        read_signing_key(path)
    assert caught.value.cure == f"chmod 600 {path}"


@pytest.mark.parametrize(
    "content", [b"", b"not PEM", b"\xff\0", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    path = secret(tmp_path, content)
    with pytest.raises(KeyFileError, match="is no private key in PEM"):
        read_signing_key(path)
    with pytest.raises(KeyFileError, match=r"is no public key in PEM|is a private key"):
        read_public_key(path)


def test_each_half_is_refused_in_the_place_of_the_other(tmp_path: Path) -> None:
    make_pair(tmp_path)
    with pytest.raises(KeyFileError, match=r"team\.pub is a public key, expected the private one"):
        read_signing_key(tmp_path / "team.pub")
    with pytest.raises(KeyFileError, match=r"team\.key is a private key, expected the public one"):
        read_public_key(tmp_path / "team.key")


def test_keys_of_other_kinds_are_refused(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    public = key.public_key().public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(KeyFileError, match="is not an ed25519 key"):
        read_signing_key(secret(tmp_path, key.private_bytes(PEM, PKCS8, serialization.NoEncryption())))
    with pytest.raises(KeyFileError, match="is not an ed25519 key"):
        read_public_key(secret(tmp_path, public))


def test_a_key_behind_a_passphrase_is_refused(tmp_path: Path) -> None:
    locked = serialization.BestAvailableEncryption(b"word")
    pem = ed25519.Ed25519PrivateKey.generate().private_bytes(PEM, PKCS8, locked)
    with pytest.raises(KeyFileError, match="locked by a passphrase"):
        read_signing_key(secret(tmp_path, pem))
