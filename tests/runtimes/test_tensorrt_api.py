"""A member of TensorRT that is removed or renamed fails here, without a GPU: on the real modules of 10 and 11.

What runs engines is checked on their lean runtimes (`make lean`), what builds them on TensorRT-RTX. The builders of 10
and 11 cannot be had without NVIDIA's own index, and 8.6 needs a GPU: what they do is seen in tests/gpu.
"""

import importlib.util
from pathlib import Path

import pytest

from tests.runtimes.tensorrt_api import Known, api_of, names_of

ROOT = Path(__file__).parents[2]
# Whatever is of TensorRT says so somewhere.
SOURCES = [
    path for path in sorted((ROOT / "tasks" / "runtimes").glob("*.py")) if "tensorrt" in path.read_text().lower()
]
LEAN = {name: ROOT / ".venvs" / f"{name}-api" for name in ("lean10", "lean11")}
# Of TensorRT 8.6, and gone since.
ONLY_OLDER = frozenset({"IInt8EntropyCalibrator2", "int8_calibrator", "set_calibration_profile"})
# Of pycuda.
NOT_TENSORRT = frozenset(
    {"retain_primary_context", "push", "detach", "synchronize", "record", "time_since", "handle", "memcpy_htod"}
)

pytestmark = [
    pytest.mark.skipif(
        not all(folder.is_dir() for folder in LEAN.values()), reason="the lean runtimes are not there: make lean"
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra tensorrt-rtx is not installed"
    ),
]


@pytest.fixture(scope="module")
def known() -> Known:
    runtimes = tuple(api_of("tensorrt_lean", folder) for folder in LEAN.values())
    own = names_of(path.read_text(encoding="utf-8") for path in (ROOT / "tasks").rglob("*.py"))
    return Known(runtimes, (api_of("tensorrt_rtx"),), ONLY_OLDER, NOT_TENSORRT | own)


def test_the_runtimes_are_the_ones_that_are_promised(known: Known) -> None:
    assert [api.version.partition(".")[0] for api in known.runtimes] == ["10", "11"]


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.name)
def test_every_member_that_is_used_is_there_in_each(file: Path, known: Known) -> None:
    assert known.problems(file.name, file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("engine.device_memory_size", "TensorRT 11.4.0.106 has no ICudaEngine.device_memory_size"),
        ("self._engine.num_bindings", "has a member 'num_bindings'"),
        (
            "def f(trt):\n class A(trt.IOutputAllocator):\n  def notify_form(self): ...",
            "calls no IOutputAllocator.notify",
        ),
        ("def f(trt):\n class P(trt.IProfiler):\n  def report_time(self): ...", "calls no IProfiler.report_time"),
    ],
)
def test_what_is_gone_is_told(source: str, problem: str, known: Known) -> None:
    (told,) = known.problems("made_up.py", source)
    assert problem in told


def test_the_flags_that_are_set_by_name_are_there_in_each(known: Known) -> None:
    for name in ("TF32", "SPARSE_WEIGHTS", "VERSION_COMPATIBLE", "REFIT"):
        for api in (*known.runtimes, *known.builders):
            assert name in api.members["BuilderFlag"], (name, api.version)


def test_what_is_there_is_seen(known: Known) -> None:
    source = "context.set_input_shape\nclass A(trt.IOutputAllocator):\n def reallocate_output_async(self): ..."
    assert known.problems("made_up.py", source) == []
    assert "ICudaEngine" in known.runtimes[0].classes("get_tensor_dtype")
