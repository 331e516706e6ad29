"""Which TensorRT may open what another one built."""

from types import ModuleType

import pytest

from tasks.core.errors import StepError
from tasks.runtimes.install import GENERATIONS, install_line
from tasks.runtimes.load import load_runtime
from tasks.runtimes.tensorrt_dialects import builds, opens
from tests.projects import ROOT


def module(version: str) -> ModuleType:
    made = ModuleType("tensorrt_lean")
    setattr(made, "__version__", version)  # noqa: B010 - no attribute that mypy knows
    return made


@pytest.mark.parametrize(
    ("made", "here", "compatible", "otherwise"),
    [
        ("8.6.1", "8.6.1", True, True),
        ("8.6.1", "10.16.1.11", True, False),
        ("8.6.1.post1", "10.16.1.11", True, False),
        ("10.3.0", "10.16.1.11", True, False),
        ("10.16.1.11", "11.4.0.106", True, False),
        ("8.6.1", "11.4.0.106", False, False),  # refused on the real one, as NVIDIA documents
        ("10.16.1.11", "10.3.0", False, False),  # only ever what is older
        ("10.16.1.11", "8.6.1", False, False),
        ("11.4.0.106", "10.16.1.11", False, False),
    ],
)
def test_another_version_opens_what_is_older_and_was_built_for_that(
    made: str, here: str, *, compatible: bool, otherwise: bool
) -> None:
    assert opens(module(here), made, version_compatible=True) == compatible
    assert opens(module(here), made, version_compatible=False) == otherwise


def test_a_runtime_alone_is_known_to_build_nothing() -> None:
    assert not builds(module("10.16.1.11"))


def test_a_module_that_no_tensorrt_has_is_refused() -> None:
    with pytest.raises(StepError, match="no TensorRT that is imported as 'os'"):
        load_runtime("tensorrt", "os")


def test_every_line_of_installation_names_a_file_of_constraints_that_is_there() -> None:
    for generation in GENERATIONS:
        names = [word for word in generation.install("python").split() if word.startswith("constraints")]
        assert names[0] == "constraints.txt"
        assert all((ROOT / name).is_file() for name in names)
    assert install_line("tensorrt", "/opt/python").count("/opt/python -m pip install") == 3
    assert install_line("tensorrt_rtx").startswith("python -m pip install")
