"""Tests that start `trtflow up` take minutes together: `make servers` runs them, `make test` skips them and says so."""

import os
from pathlib import Path

import pytest

_WITH_UP = {"test_up.py", "test_ui.py", "test_deploy.py", "test_retrain_server.py"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip them, with the reason, unless they are asked for."""
    if os.environ.get("TRTFLOW_TEST_SERVERS"):
        return
    skip = pytest.mark.skip(reason="starts trtflow up for real and takes minutes: make servers")
    for item in items:
        if Path(item.path).name in _WITH_UP:
            item.add_marker(skip)
