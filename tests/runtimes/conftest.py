"""What tests of the worker processes share."""

from collections.abc import Iterator

import pytest

from tasks.runtimes import isolate
from tasks.runtimes.process import Zygote


@pytest.fixture(scope="module")
def own_zygotes() -> Iterator[None]:
    """Processes that start and end with each `Workers`, as outside the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(isolate, "Zygote", Zygote)
        yield
