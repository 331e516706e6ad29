"""What tests of the core share."""

from pathlib import Path

import pytest

from tasks.core.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store", tmp_path)
