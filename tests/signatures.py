"""Real keys for tests, and a pipeline that signs with them."""

from pathlib import Path

import yaml

from tasks.core.signing import PublicKey, SigningKey, new_pair, read_public_key, read_signing_key
from tests.commands import TINY
from tests.projects import Project


def make_pair(folder: Path, name: str = "team") -> tuple[SigningKey, PublicKey]:
    """Write a pair of keys into a folder, as keygen does, and read it back."""
    pair = new_pair()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.key").write_bytes(pair.private)
    (folder / f"{name}.key").chmod(0o600)
    (folder / f"{name}.pub").write_bytes(pair.public)
    return read_signing_key(folder / f"{name}.key"), read_public_key(folder / f"{name}.pub")


def sign_with(project: Project, **top_level: object) -> None:
    """Write the project's YAML anew, with what is said of keys."""
    document = {"version": 1, **top_level, "pipelines": {"tiny": TINY}}
    (project.folder / "pipelines.yaml").write_text(yaml.safe_dump(document, sort_keys=False))


BOTH = {"signing": {"key": "keys/team.key"}, "trust": ["keys/team.pub"]}
