"""What the tests on a GPU share; each skips, with the reason, where there is none or no TensorRT with what it needs."""

import importlib
import importlib.util
from pathlib import Path

import pytest

from tasks.core.config import RuntimeName
from tasks.runtimes.load import load_runtime
from tasks.runtimes.tensorrt_dialects import dialect_of
from tests.runtimes.contract import Built, Case, build, convolution


@pytest.fixture(scope="session")
def name() -> RuntimeName:
    """The runtime under test."""
    here = load_runtime("tensorrt").probe()
    if not here.available or here.not_run:
        pytest.skip(here.reason or here.not_run)
    for module in ("pycuda", "cuda.bindings.driver"):
        needs(module)
    return "tensorrt"


@pytest.fixture(scope="session")
def given(tmp_path_factory: pytest.TempPathFactory, name: RuntimeName) -> Case:
    """A small net of convolutions; depends on the runtime, so that nothing is made where it is not."""
    assert name
    return convolution(tmp_path_factory.mktemp("net"))


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, name: RuntimeName, given: Case) -> Built:
    """Its engine, built once for all tests; not to be changed."""
    return build(name, given, tmp_path_factory.mktemp("built") / "engine")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An empty folder for an engine."""
    made = tmp_path / "engine"
    made.mkdir()
    return made


def does(what: str) -> None:
    """Skip what the dialect of the TensorRT here says that it does not, or does wrongly."""
    dialect = dialect_of(importlib.import_module("tensorrt"))
    if not getattr(dialect, what):
        pytest.skip(f"{what} is off for TensorRT {dialect.name}: see tensorrt_dialects.py")


def needs(module: str) -> None:
    """Skip where a module is not installed."""
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"{module} is not installed")
