"""Of the two exporters, the first whose graph is right is taken; where none is, the causes are told."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal, cast

import numpy as np
import pytest

from tasks.core.errors import StepError
from tasks.core.feeds import generate
from tasks.core.metrics import compare, worst
from tasks.core.signature import DimRange, Dtype, InputSpec, Signature
from tasks.core.tensors import Tensors
from tasks.core.tolerances import PARITY, excess
from tasks.core.user_code import call_user
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tasks.runtimes.torch_eager import TorchEagerSession
from tasks.sources.other_values import other_values
from tasks.sources.source_range import Source
from tasks.sources.torch_attempts import Attempts, Exported, Reference
from tasks.sources.torch_module import TorchSource

BATCH = DimRange(min=1, opt=3, max=5)
LENGTH = DimRange(min=2, opt=5, max=9)
SIDE = DimRange(min=8, opt=16, max=24, step=4)


def signature(inputs: str, *shape: int | str, dtype: Dtype = "float32", side: DimRange = LENGTH) -> Signature:
    spec = InputSpec(dtype=dtype, shape=shape, range=(0, 9) if dtype == "int64" else None)
    dims = {name: BATCH if name == "batch" else side for name in shape if isinstance(name, str)}
    return Signature(inputs=dict.fromkeys(inputs, spec), dims=dims)


ROWS = signature("x", "batch", 4)
STEPS = signature("x", "batch", "length", 4)
TOKENS = signature("x", "batch", "length", dtype="int64")
PICTURE = signature("x", "batch", 1, "height", "width", side=SIDE)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    import torch  # here, for every process of the tests reads this file

    before, fast = torch.get_num_threads(), torch.backends.mha.get_fastpath_enabled()
    torch.set_num_threads(1)
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.set_num_threads(before)
    torch.backends.mha.set_fastpath_enabled(fast)


class Tried:
    """A module's exports, and what it computes itself."""

    def __init__(self, name: str, signature: Signature, folder: Path) -> None:
        import torch

        from tests.sources import branching_modules

        torch.manual_seed(0)
        module = getattr(branching_modules, name)().eval()
        names = tuple(signature.inputs)
        session = TorchEagerSession(module, names, ["output"], by_name=True)
        self._module, self._signature, self.path = module, signature, folder / "model.onnx"
        self._session = session
        self._source = TorchSource(
            project=Path(branching_modules.__file__).parent,
            factory="m:build",
            checkpoint=None,
            inputs=names,
            outputs=(),
        )

    def infer(self, feeds: Tensors) -> Tensors:
        return cast("Tensors", call_user("m:build", partial(self._session.infer, feeds)))

    def export(self, asked: Literal["auto", "dynamo", "torchscript"] = "auto") -> Exported:
        import torch

        golden = [generate(self._signature, self._signature.sizes("opt"), seed) for seed in (0, 1)]
        over_range = Source(self.infer, golden[0], self._signature, "the module").run_range()
        outputs = [self.infer(batch) for batch in golden]
        reference = Reference(("output",), golden, outputs, over_range, self.infer)
        example = {name: torch.tensor(array) for name, array in golden[0].items()}
        attempts = Attempts(
            source=self._source, signature=self._signature, opset=20, path=self.path, reference=reference
        )
        return attempts.first_right(self._module, example, asked)

    def check(self, **sizes: int) -> None:
        """Graph and module compute the same on other data, at other sizes than any that the export tried."""
        feeds = generate(self._signature, {**self._signature.sizes("opt"), **sizes}, 7)
        (actual,) = run_unoptimised(self.path, [feeds])
        error = worst(compare(actual, self.infer(feeds)).values())
        assert excess(error, PARITY["fp32"]) == []


def refusal(name: str, signature: Signature, folder: Path, asked: Literal["auto", "torchscript"] = "auto") -> StepError:
    with pytest.raises(StepError) as raised:
        Tried(name, signature, folder).export(asked)
    told = f"{raised.value.message}\n{raised.value.cure}"
    assert "Error" not in told
    assert told.count("m:build") <= 1, told
    return raised.value


def test_a_length_that_dynamo_fixes_is_right_by_torchscript_and_the_run_says_so(tmp_path: Path) -> None:
    tagger = Tried("Tagger", TOKENS, tmp_path)
    exported = tagger.export()
    if exported.exporter == "torchscript":  # a later exporter may be right at once
        assert "since the dynamo exporter gave no right graph" in exported.notes[0]
    tagger.check(batch=2, length=7)
    tagger.check(batch=1, length=3)


def test_what_both_fix_names_both_causes_with_the_sizes_that_are_wrong(tmp_path: Path) -> None:
    told = refusal("Loop", STEPS, tmp_path).message
    assert "expected ['batch', 'length', 4]" in told
    assert "the TorchScript exporter: the exported graph computes something else" in told
    assert "length = 2" in told
    assert "right where" in told


def test_a_branch_on_values_is_refused_at_its_line_and_never_traced(tmp_path: Path) -> None:
    from tests.sources import branching_modules

    lines = Path(branching_modules.__file__).read_text().splitlines()
    line = next(at for at, text in enumerate(lines, 1) if "the line that is told" in text)
    error = refusal("OnValues", ROWS, tmp_path)
    assert f"depends on values of its inputs (at branching_modules.py:{line})" in error.message
    assert "torch.where" in error.cure


@pytest.mark.parametrize(("name", "inputs"), [("OnValues", ROWS), ("OnInteger", TOKENS)])
def test_a_trace_that_was_asked_for_is_held_against_other_values(name: str, inputs: Signature, tmp_path: Path) -> None:
    error = refusal(name, inputs, tmp_path, "torchscript")
    assert "computes something else than the module on other values" in error.message


@pytest.mark.parametrize("asked", ["auto", "torchscript"])
def test_a_branch_on_a_size_is_refused_by_that_size(asked: Literal["auto", "torchscript"], tmp_path: Path) -> None:
    assert "batch = 2" in refusal("OnSize", ROWS, tmp_path, asked).message


@pytest.mark.parametrize(("name", "inputs"), [("OnMask", ROWS), ("Decoder", STEPS)])
def test_a_branch_on_what_follows_from_sizes_is_none_on_values(name: str, inputs: Signature, tmp_path: Path) -> None:
    tried = Tried(name, inputs, tmp_path)
    tried.export()
    tried.check(batch=2)
    tried.check(batch=4)


def test_an_operator_that_onnx_lacks_is_named_once(tmp_path: Path) -> None:
    error = refusal("Singular", signature("x", "batch", 3, 4), tmp_path)
    assert "ONNX has no operator for torch's linalg_svd" in error.message
    assert error.message.count("linalg_svd") == 1


@pytest.mark.parametrize("asked", ["dynamo", "torchscript"])
def test_inputs_in_another_order_than_forward_has_them_keep_their_names(
    asked: Literal["dynamo", "torchscript"], tmp_path: Path
) -> None:
    difference = Tried("Difference", signature("yx", "batch", 4), tmp_path)
    assert list(difference.export(asked).facts.inputs) == ["y", "x"]
    difference.check(batch=2)


@pytest.mark.parametrize("asked", ["dynamo", "torchscript"])
def test_multiples_are_exported_by_both(asked: Literal["dynamo", "torchscript"], tmp_path: Path) -> None:
    net = Tried("UNet", PICTURE, tmp_path)
    assert net.export(asked).exporter == asked
    net.check(batch=2, height=20, width=12)


def test_other_values_lie_where_valid_ones_do() -> None:
    spec = {"x": ROWS.inputs["x"], "ids": InputSpec(dtype="int64", shape=("batch",)), "on": TOKENS.inputs["x"]}
    feeds: Tensors = {
        "x": np.ones((2, 4), np.float32),
        "ids": np.array([3, 5]),
        "on": np.array([[True], [False]]),
    }
    others = list(other_values(feeds, Signature(inputs=spec, dims=TOKENS.dims)))
    assert len(others) == 6
    for other in others:
        assert {name: (array.shape, array.dtype) for name, array in other.items()} == {
            name: (array.shape, array.dtype) for name, array in feeds.items()
        }
        assert 3 <= other["ids"].min() <= other["ids"].max() <= 5
