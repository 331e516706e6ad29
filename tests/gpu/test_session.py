"""Sessions of TensorRT on a GPU: memory that is used again, streams, transfers, graphs, and layers."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tasks.core.config import RuntimeName
from tasks.core.metrics import compare, worst
from tasks.core.tensors import Tensors
from tasks.core.tolerances import AGREEMENT
from tasks.runtimes.engine_layers import join, read_inspection, summary
from tasks.runtimes.engines import TimeOpening, TimeTurn, time_engine
from tasks.runtimes.gpu_session import GpuSession
from tasks.runtimes.layer_times import LAYERS, LayersRequest, graph_of, time_layers
from tasks.runtimes.onnxruntime_session import run_unoptimised
from tests.runtimes.contract import Built, Case, build, opened, random, sentences

pytestmark = pytest.mark.gpu


@pytest.fixture
def session(name: RuntimeName, built: Built) -> Iterator[GpuSession]:
    with on_gpu(name, built) as found:
        yield found


@contextlib.contextmanager
def on_gpu(name: RuntimeName, built: Built) -> Iterator[GpuSession]:
    with opened(name, built) as found:
        assert isinstance(found, GpuSession)
        yield found


def images(batch: int, seed: int = 3) -> Tensors:
    return {"image": random(seed, batch, 1, 8, 8)}


def assert_agree(actual: Tensors, expected: Tensors) -> None:
    assert worst(compare(actual, expected).values()).rel_l2 <= AGREEMENT["fp32"]


def test_shapes_may_grow_shrink_and_come_again(session: GpuSession, given: Case) -> None:
    batches = [images(size, seed) for seed, size in enumerate((4, 1, 16, 1, 4, 16, 2))]
    for feeds, expected in zip(batches, run_unoptimised(given.model, batches), strict=True):
        assert_agree(session.infer(feeds), expected)


def test_outputs_are_the_callers_own(session: GpuSession) -> None:
    first = session.infer(images(2, 1))
    kept = {name: array.copy() for name, array in first.items()}
    session.infer(images(2, 2))
    for name, array in first.items():
        np.testing.assert_array_equal(array, kept[name])


def test_a_thousand_inferences_take_no_more_memory(session: GpuSession) -> None:
    import pycuda.driver as cuda

    for size in range(16, 0, -1):  # kernels are loaded when they are first used
        session.infer(images(size))
    before = cuda.mem_get_info()[0]
    for number in range(1000):
        session.infer(images(1 + number % 16))
    assert cuda.mem_get_info()[0] == before


def test_sessions_leave_no_memory_behind(name: RuntimeName, built: Built) -> None:
    import pycuda.driver as cuda

    def free() -> int:
        cuda.init()
        primary = cuda.Device(0).retain_primary_context()
        primary.push()
        try:
            return int(cuda.mem_get_info()[0])
        finally:
            primary.pop()
            primary.detach()

    def use() -> None:
        with on_gpu(name, built) as found:
            found.infer(images(16))
            found.flow(images(4), 4, 0.01)

    use()
    before = free()
    for _ in range(5):
        use()
    assert free() >= before - (8 << 20)  # the driver takes and gives whole pages


def test_latency_is_measured_with_and_without_a_graph(session: GpuSession) -> None:
    graphed = session.latencies(images(4), 0.02, graph=True)
    launched = session.latencies(images(4), 0.02, graph=False)
    assert graphed is not None
    assert launched is not None
    assert len(graphed.nanoseconds) > 1
    assert min(*graphed.nanoseconds, *launched.nanoseconds) > 0


def test_transfers_are_measured_apart(session: GpuSession) -> None:
    found = session.transfers(images(16), 0.02)
    counts = {len(part.nanoseconds) for part in (found.h2d, found.compute, found.d2h)}
    assert len(counts) == 1
    assert counts.pop() > 1


def test_several_streams_run_at_once_and_leave_a_session_that_works(session: GpuSession, given: Case) -> None:
    for streams in (1, 2, 4):
        found = session.flow(images(4), streams, 0.02)
        assert found.streams == streams
        assert found.inferences >= streams
    feeds = images(3)
    assert_agree(session.infer(feeds), run_unoptimised(given.model, [feeds])[0])


def test_a_turn_may_ask_for_figures_of_the_gpu(built: Built, given: Case) -> None:
    files = {"engine": built.engine, "card": built.engine.with_name("card.json"), "feeds": given.golden}
    talk = time_engine(TimeOpening.model_validate(files))
    assert next(talk).on_gpu
    found = talk.send(TimeTurn(point=0, seconds=0.02, streams=(1, 2))).gpu
    assert found is not None
    assert [point.streams for point in found.streams] == [1, 2], found.streams_missing
    assert found.graph_p50_ms is not None
    assert min(found.launched_p50_ms, found.h2d_p50_ms, found.compute_p50_ms, found.d2h_p50_ms) > 0
    assert talk.send(TimeTurn(point=1, seconds=0.0)).samples.nanoseconds
    talk.close()


def test_layers_have_times_nodes_and_precisions(given: Case, session: GpuSession) -> None:
    session.infer(images(4))
    inspected, times = read_inspection(session.inspection()), session.layers()
    table = join(inspected, times, graph_of(given.model))
    metrics = summary(table, inspected, times)
    assert metrics.detailed
    assert metrics.total_microseconds > 0
    assert metrics.unknown == 0, {time.name for time in times} - {str(layer["Name"]) for layer in inspected}
    told = {node for layer in table.layers for node in layer.nodes}
    assert {"conv", "head"} <= told, table.model_dump_json(indent=1)
    assert any("fp32" in layer.precision for layer in table.layers), session.inspection()
    session.infer(images(4))  # the profiler is gone again


def test_the_worker_writes_the_table(built: Built, given: Case, folder: Path) -> None:
    request = LayersRequest(
        engine=built.engine,
        card=built.engine.with_name("card.json"),
        feeds=given.golden,
        model=given.model,
        signature=given.signature,
        folder=folder,
    )
    metrics = time_layers(request)
    assert metrics.at == {"batch": 4}
    assert metrics.layers > 0
    assert {path.name for path in folder.iterdir()} == {LAYERS, "inspector.json"}


def test_int64_goes_in_and_comes_out(name: RuntimeName, tmp_path_factory: pytest.TempPathFactory) -> None:
    given = sentences(tmp_path_factory.mktemp("sentences"))
    built = build(name, given, tmp_path_factory.mktemp("built") / "engine")
    with on_gpu(name, built) as found:
        outputs = [found.infer(feeds) for feeds in given.batches]
    for actual, expected in zip(outputs, run_unoptimised(given.model, given.batches), strict=True):
        assert {key: value.dtype for key, value in actual.items()} == {k: v.dtype for k, v in expected.items()}
        assert_agree(actual, expected)
