"""What every runtime that works here keeps to."""

import gc
import weakref
from pathlib import Path
from typing import get_args

import numpy as np
import onnx
import pytest

from tasks.core.config import RuntimeName
from tasks.core.errors import StepError, TrtflowError, UserCodeError
from tasks.core.metrics import compare, worst
from tasks.core.tensors import Tensors, load_batches
from tasks.core.tolerances import AGREEMENT
from tasks.runtimes.base import CARD, OpenOptions, read_card
from tasks.runtimes.engines import (
    ProbeRequest,
    RunRequest,
    TimeOpening,
    TimeTurn,
    build_engine,
    probe,
    run_engine,
    time_engine,
)
from tasks.runtimes.load import distributions, installed, load_runtime, runtime_name
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tests.runtimes.contract import Built, Case, build, convolution, opened, request, sentences

NAMES: tuple[RuntimeName, ...] = get_args(RuntimeName)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> RuntimeName:
    runtime: RuntimeName = request.param
    here = load_runtime(runtime).probe()
    if not here.available or here.not_run:
        pytest.skip(here.reason or here.not_run)
    return runtime


@pytest.fixture
def given(tmp_path: Path) -> Case:
    return convolution(tmp_path)


@pytest.fixture
def built(name: RuntimeName, given: Case, tmp_path: Path) -> Built:
    return build(name, given, tmp_path / "engine")


def assert_agrees(actual: list[Tensors], expected: list[Tensors]) -> None:
    assert len(actual) == len(expected)
    for left, right in zip(actual, expected, strict=True):
        assert {key: value.dtype for key, value in left.items()} == {key: value.dtype for key, value in right.items()}
        assert worst(compare(left, right).values()).rel_l2 <= AGREEMENT["fp32"]


def test_engine_computes_what_the_unoptimised_graph_does(name: RuntimeName, given: Case, built: Built) -> None:
    with opened(name, built) as session:
        outputs = [session.infer(feeds) for feeds in given.batches]
    assert_agrees(outputs, run_unoptimised(given.model, given.batches))
    assert built.metrics.size_bytes == built.card.engine_bytes == built.engine.stat().st_size
    assert (built.metrics.agreement_rel_l2 or 0.0) <= AGREEMENT["fp32"]


def test_several_inputs_outputs_types_and_dynamic_dims(name: RuntimeName, tmp_path: Path) -> None:
    given = sentences(tmp_path)
    built = build(name, given, tmp_path / "engine")
    assert [spec.shape for spec in built.card.inputs] == [("batch", "words"), ("batch", "words")]
    assert [(spec.name, spec.dtype) for spec in built.card.outputs] == [("sentence", "float32"), ("strongest", "int64")]
    with opened(name, built) as session:
        outputs = [session.infer(feeds) for feeds in given.batches]
    assert_agrees(outputs, run_unoptimised(given.model, given.batches))


def test_weights_in_a_file_of_their_own_come_along(name: RuntimeName, given: Case, tmp_path: Path) -> None:
    expected = run_unoptimised(given.model, given.batches)
    model = onnx.load(given.model)
    onnx.save(model, given.model, save_as_external_data=True, location="model.onnx.data", size_threshold=1)
    built = build(name, given, tmp_path / "engine")
    assert built.metrics.size_bytes == sum(f.stat().st_size for f in built.engine.parent.iterdir() if f.name != CARD)
    given.model.with_name("model.onnx.data").unlink()
    with opened(name, built) as session:
        assert_agrees([session.infer(feeds) for feeds in given.batches], expected)


@pytest.mark.parametrize(
    ("feeds", "says"),
    [
        ({}, "the engine takes ['image']"),
        ({"picture": np.zeros((1, 1, 8, 8), np.float32)}, "the feeds have the names ['picture']"),
        ({"image": np.zeros((1, 1, 8, 8))}, "dtype float64, the engine takes float32"),
        ({"image": np.zeros((1, 1, 8), np.float32)}, "shape [1, 1, 8], the engine takes ['batch', 1, 8, 8]"),
        ({"image": np.zeros((1, 1, 8, 7), np.float32)}, "shape [1, 1, 8, 7], the engine takes ['batch', 1, 8, 8]"),
        ({"image": np.zeros((17, 1, 8, 8), np.float32)}, "batch = 17, the engine takes 1 to 16"),
        ({"image": np.zeros((0, 1, 8, 8), np.float32)}, "batch = 0, the engine takes 1 to 16"),
    ],
)
def test_feeds_that_do_not_fit_are_refused(name: RuntimeName, built: Built, feeds: Tensors, says: str) -> None:
    with opened(name, built) as session:
        with pytest.raises(StepError) as inferred:
            session.infer(feeds)
        with pytest.raises(StepError) as timed:
            session.time(feeds, 0.0)
    assert says in inferred.value.message
    assert inferred.value.message == timed.value.message


def test_dims_that_inputs_share_must_agree(name: RuntimeName, tmp_path: Path) -> None:
    given = sentences(tmp_path)
    feeds = given.batches[0] | {"mask": given.batches[0]["mask"][:, :5]}
    with opened(name, build(name, given, tmp_path / "engine")) as session, pytest.raises(StepError) as refusal:
        session.infer(feeds)
    assert "'mask' has shape [4, 5]" in refusal.value.message
    assert "'words': 9" in refusal.value.message


def test_truncated_engine_is_refused(name: RuntimeName, built: Built) -> None:
    content = built.engine.read_bytes()
    built.engine.unlink()  # the engine may be a second name of the model
    built.engine.write_bytes(content[:-1])
    with pytest.raises(StepError, match=rf"is {len(content) - 1} bytes long, its card says {len(content)}"):
        opened(name, built)
    built.engine.unlink()
    with pytest.raises(StepError, match="is missing"):
        opened(name, built)


def test_edited_engine_is_a_plain_error(name: RuntimeName, built: Built) -> None:
    built.engine.unlink()
    built.engine.write_bytes(b"\xff" * built.card.engine_bytes)
    with pytest.raises(StepError):
        opened(name, built)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"runtime": "another"}, "made by another, not by"),
        ({"runtime_version": "0.1"}, r"0\.1, and this is"),
        ({"device": "cuda:7"}, "made for device cuda:7"),
    ],
)
def test_card_of_something_else_is_refused(name: RuntimeName, built: Built, change: dict[str, str], says: str) -> None:
    built.engine.unlink()  # refused before anything is loaded
    other = Built(metrics=built.metrics, card=built.card.model_copy(update=change), engine=built.engine)
    with pytest.raises(StepError, match=says):
        opened(name, other)


def test_card_that_is_not_one_is_a_plain_error(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="is missing"):
        read_card(tmp_path / CARD)
    (tmp_path / CARD).write_text('{"runtime": "onnxruntime"}', encoding="utf-8")
    with pytest.raises(StepError, match="is not an engine card"):
        read_card(tmp_path / CARD)


def test_time_gives_samples_of_every_point(name: RuntimeName, given: Case, built: Built) -> None:
    with opened(name, built) as session:
        once = session.time(given.batches[0], 0.0)
        more = session.time(given.batches[1], 0.05)
        assert session.memory().host_bytes >= 0
    assert gc.isenabled()
    assert len(once.nanoseconds) == 1
    assert len(more.nanoseconds) > 1
    assert all(nanoseconds > 0 for nanoseconds in (*once.nanoseconds, *more.nanoseconds))


def test_leaving_the_context_frees_the_session(name: RuntimeName, given: Case, built: Built) -> None:
    session = opened(name, built)
    inner = weakref.ref(next(value for key, value in vars(session).items() if key in {"_session", "_evaluator"}))
    with session:
        session.infer(given.batches[0])
    gc.collect()
    assert inner() is None
    with pytest.raises(StepError, match="is closed"):
        session.infer(given.batches[0])


def test_graph_that_differs_from_the_signature_is_refused(name: RuntimeName, given: Case, tmp_path: Path) -> None:
    model = onnx.load(given.model)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, given.model)
    with pytest.raises(StepError, match=r"the graph takes 'image' as float32\[4, 1, 8, 8\], the signature says"):
        build(name, given, tmp_path / "engine")


def test_truncated_model_is_refused(name: RuntimeName, given: Case, tmp_path: Path) -> None:
    content = given.model.read_bytes()
    given.model.write_bytes(content[: len(content) // 2])
    with pytest.raises(StepError):
        build(name, given, tmp_path / "engine")


def test_unknown_option_is_refused(name: RuntimeName, given: Case, tmp_path: Path) -> None:
    build(name, given, tmp_path / "usual", {"device": "cpu", "threads": None})
    with pytest.raises(StepError, match="turbo"):
        build(name, given, tmp_path / "engine", {"turbo": True})


def test_worker_functions_build_run_and_time(name: RuntimeName, given: Case, tmp_path: Path) -> None:
    folder, outputs = tmp_path / "engine", tmp_path / "outputs.safetensors"
    folder.mkdir()
    metrics = build_engine(request(name, given, folder))
    assert metrics.size_bytes > 0
    files = {"engine": folder / "model.engine", "card": folder / CARD, "feeds": given.golden}
    reply = run_engine(RunRequest.model_validate(files | {"outputs": outputs}))
    assert (reply.batches, reply.load_seconds > 0, reply.first_inference_seconds > 0) == (2, True, True)
    assert_agrees(load_batches(outputs), run_unoptimised(given.model, given.batches))

    conversation = time_engine(TimeOpening.model_validate(files))
    assert next(conversation).samples.nanoseconds == ()
    turn = conversation.send(TimeTurn(point=1, seconds=0.0))
    assert len(turn.samples.nanoseconds) == 1
    with pytest.raises(StepError, match="no point 2"):
        conversation.send(TimeTurn(point=2, seconds=0.0))


def test_probe_answers_for_every_runtime() -> None:
    for runtime in NAMES:
        here = probe(ProbeRequest(runtime=runtime))
        assert here.runtime == runtime
        assert here.available == installed(runtime) == bool(here.version)
        assert distributions(runtime)
    with pytest.raises(StepError, match="there is no runtime 'tensorflow'"):
        runtime_name("tensorflow")


def test_threads_can_be_set_when_opening(given: Case, tmp_path: Path) -> None:
    built = build("onnxruntime", given, tmp_path / "engine")
    with load_runtime("onnxruntime").open(built.engine, built.card, OpenOptions(threads=1)) as session:
        assert session.infer(given.batches[0])["logits"].shape == (4, 10)
    built = build("reference", given, tmp_path / "reference")
    with pytest.raises(StepError, match="no thread count"):
        load_runtime("reference").open(built.engine, built.card, OpenOptions(threads=1))


def test_eager_baseline_is_a_session() -> None:
    torch = pytest.importorskip("torch")
    from tasks.runtimes.torch_eager import TorchEagerSession

    class Difference(torch.nn.Module):  # type: ignore[misc, name-defined]
        def forward(self, left: object, right: object) -> dict[str, object]:
            return {"difference": left - right, "rest": (None, [left + right])}  # type: ignore[operator]

    feeds: Tensors = {"left": np.array([3.0, 4.0], np.float32), "right": np.array([1.0, 1.0], np.float32)}
    for by_name, order in ((False, ("left", "right")), (True, ("right", "left"))):
        with TorchEagerSession(Difference(), order, ("difference", "sum"), by_name=by_name) as session:
            outputs = session.infer(feeds)
            assert outputs["difference"].tolist() == [2.0, 3.0]
            assert outputs["sum"].tolist() == [4.0, 5.0]
            assert len(session.time(feeds, 0.0).nanoseconds) == 1
            assert session.settings()["threads"] == torch.get_num_threads()
    with TorchEagerSession(Difference(), ("left", "right"), ("difference",)) as session:
        with pytest.raises(UserCodeError, match="gives 2 outputs"):
            session.infer(feeds)
        with pytest.raises(TrtflowError, match="the module takes"):
            session.infer({"left": feeds["left"]})
