"""What the Python example makes of feeds before it needs a GPU; tests/gpu runs all of it."""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.projects import ROOT

CARD = {
    "dims": {"batch": {"min": 1, "opt": 2, "max": 4}},
    "inputs": [
        {"name": "ids", "dtype": "int64", "shape": ["batch", 3], "engine_dtype": "int32"},
        {"name": "on", "dtype": "bool", "shape": ["batch"], "engine_dtype": ""},
        {"name": "factor", "dtype": "float64", "shape": [], "engine_dtype": "float32"},
    ],
}


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The example, imported without what it calls only to run an engine."""
    for name in ("pycuda", "pycuda.driver", "tensorrt"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    setattr(sys.modules["pycuda"], "driver", sys.modules["pycuda.driver"])  # noqa: B010 - as an import would
    spec = importlib.util.spec_from_file_location("run_engine", ROOT / "examples" / "run_engine.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_feeds_of_the_usual_size_are_what_the_card_describes(example: ModuleType) -> None:
    feeds = example.usual_feeds(CARD)
    assert {name: (str(feed.dtype), feed.shape) for name, feed in feeds.items()} == {
        "ids": ("int64", (2, 3)),
        "on": ("bool", (2,)),
        "factor": ("float64", ()),
    }
    example.check_feeds(CARD, feeds)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ids": np.ones((2, 3), np.int32)}, "ids is int32, the model takes int64"),
        ({"ids": np.ones((2, 4), np.int64)}, r"ids has the shape \[2, 4\]"),
        ({"ids": np.ones(2, np.int64)}, r"ids has the shape \[2\]"),
        ({"on": np.ones(3, np.bool_)}, r"on has the shape \[3\]"),
        ({"factor": np.ones(1)}, r"factor has the shape \[1\]"),
        ({"ids": np.ones((5, 3), np.int64), "on": np.ones(5, np.bool_)}, "batch is 5, the engine takes 1 to 4"),
        ({"more": np.ones(1)}, "the feeds are .*'more'"),
    ],
)
def test_other_feeds_are_refused(example: ModuleType, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(SystemExit, match=says):
        example.check_feeds(CARD, {**example.usual_feeds(CARD), **changes})


def test_values_are_converted_where_the_engine_has_them(example: ModuleType) -> None:
    found = example.to_engine("ids", np.array([[-(2**31), 2**31 - 1]]).T, np.dtype("int32"))
    assert (found.dtype, found.shape, found.tolist()) == (np.int32, (2, 1), [[-(2**31)], [2**31 - 1]])
    scalar = example.to_engine("factor", np.asarray(np.inf), np.dtype("float32"))
    assert (scalar.dtype, scalar.shape, scalar) == (np.float32, (), np.inf)
    same = np.asarray([[True], [False]]).T
    assert example.to_engine("on", same, np.dtype("bool")).flags.c_contiguous
    for name, feed, dtype in (("ids", np.array([2**31]), "int32"), ("factor", np.asarray(1e300), "float32")):
        with pytest.raises(SystemExit, match=f"{name} holds values beyond {dtype}, which the engine takes"):
            example.to_engine(name, feed, np.dtype(dtype))
