"""Builds on a real GPU: timing cache, refit, TensorRT's calibrator, what fails, and what may be left behind."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from pydantic import JsonValue

from tasks.core.environment import gpu
from tasks.core.errors import StepError
from tasks.core.tensors import Tensors, save_batches
from tasks.runtimes.base import CARD, ENGINE, BuildMetrics, BuildRequest, EarlierBuild, EngineCard, OpenOptions
from tasks.runtimes.base import read_card as read
from tasks.runtimes.load import load_runtime
from tasks.runtimes.onnxruntime import OnnxRuntime
from tests.gpu.conftest import does
from tests.runtimes.contract import Case, case, convolution, graph, random, request, signature_of


def _missing() -> str:
    if gpu() is None:
        return "there is no NVIDIA GPU here"
    absent = [name for name in ("tensorrt", "pycuda", "cuda") if importlib.util.find_spec(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(_missing()), reason=_missing() or "a GPU is here")]
NAME: Final = "tensorrt"
ROOT = Path(__file__).resolve().parents[2]
WARM_UP = 20
MANY = 1000
# The driver hands memory out in larger pieces than asked for, and other processes may come and go.
SLACK_BYTES = 64 * 2**20


def version() -> int:
    import tensorrt

    return int(tensorrt.__version__.partition(".")[0])


def free_bytes() -> int:
    import pycuda.driver as cuda

    from tasks.runtimes.tensorrt_session import Primary

    primary = Primary()
    try:
        return int(cuda.mem_get_info()[0])
    finally:
        primary.close()


def net(folder: Path, seed: int = 0, kind: str = "fp32") -> Case:
    """Enough layers that a cold build takes seconds; `seed` is of the weights alone."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype, element = (np.float16, TensorProto.FLOAT16) if kind == "fp16" else (np.float32, TensorProto.FLOAT)
    weights: dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]] = {}
    nodes, last, channels = [], "image", 16
    for index in range(12):
        weights[f"w{index}"] = (random(seed * 100 + index, channels, channels, 3, 3) / 12).astype(dtype)
        weights[f"b{index}"] = random(seed * 100 + 50 + index, channels).astype(dtype)
        nodes.append(helper.make_node("Conv", [last, f"w{index}", f"b{index}"], [f"c{index}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu", [f"c{index}"], [f"r{index}"]))
        last = f"r{index}"
    weights["head"] = random(seed * 100 + 99, channels, 10).astype(dtype)
    nodes += [
        helper.make_node("GlobalAveragePool", [last], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "head"], ["logits"]),
    ]
    for index, node in enumerate(nodes):
        node.name = f"{node.op_type}_{index}"
    model = graph(
        nodes,
        [helper.make_tensor_value_info("image", element, ["batch", channels, 32, 32])],
        [helper.make_tensor_value_info("logits", element, ["batch", 10])],
        weights,
    )
    name = "float16" if kind == "fp16" else "float32"
    signature = signature_of({"image": (name, ("batch", channels, 32, 32))}, {"batch": (1, 4, 8)})
    batches: list[Tensors] = [{"image": random(9, size, channels, 32, 32).astype(dtype)} for size in (4, 1, 8)]
    return case(folder, model, signature, batches, kind)


def build(
    given: Case, folder: Path, options: dict[str, JsonValue] | None = None, **changes: object
) -> tuple[BuildMetrics, EngineCard]:
    folder.mkdir()
    wanted: BuildRequest = request(NAME, given, folder, options).model_copy(update=changes)
    metrics = load_runtime(NAME).build(wanted, folder)
    return metrics, read(folder / CARD)


def run(folder: Path, batches: list[Tensors]) -> list[Tensors]:
    with load_runtime(NAME).open(folder / ENGINE, read(folder / CARD), OpenOptions(timed=False)) as session:
        return [session.infer(feeds) for feeds in batches]


def reference(given: Case, folder: Path) -> list[Tensors]:
    """The same graph on ONNX Runtime."""
    folder.mkdir()
    runtime = OnnxRuntime()
    runtime.build(request("onnxruntime", given, folder), folder)
    with runtime.open(folder / ENGINE, read(folder / CARD), OpenOptions(timed=False)) as session:
        return [session.infer(feeds) for feeds in given.batches]


def distance(ours: list[Tensors], theirs: list[Tensors]) -> float:
    pairs = [
        (a["logits"].astype(np.float64), b["logits"].astype(np.float64)) for a, b in zip(ours, theirs, strict=True)
    ]
    return max(float(np.linalg.norm(a - b) / np.linalg.norm(b)) for a, b in pairs)


def earlier(metrics: BuildMetrics, folder: Path) -> EarlierBuild:
    return EarlierBuild(
        structure=metrics.structure,
        artifact=folder.name,
        folder=folder,
        built_seconds=metrics.seconds,
        cold_seconds=None,
    )


def test_a_timing_cache_is_kept_used_and_survives_damage(tmp_path: Path) -> None:
    does("timing_cache")
    given, caches = net(tmp_path / "net"), tmp_path / ".timing"
    cold, _ = build(given, tmp_path / "cold", timing_caches=caches)
    warm, _ = build(given, tmp_path / "warm", timing_caches=caches)
    assert cold.timing_cache is not None
    assert warm.timing_cache is not None
    assert (cold.timing_cache.bytes_before, cold.timing_cache.note) == (0, "")
    assert warm.timing_cache.bytes_before == cold.timing_cache.bytes_after > 0
    print(f"cold {cold.seconds} s, warm {warm.seconds} s, {warm.timing_cache}")  # noqa: T201 - evidence, with -s
    (file,) = caches.glob("*.cache")
    file.write_bytes(file.read_bytes()[:-7])
    damaged, _ = build(given, tmp_path / "damaged", timing_caches=caches)
    assert damaged.timing_cache is not None
    assert damaged.timing_cache.bytes_before == 0
    assert "damaged" in damaged.timing_cache.note
    assert damaged.timing_cache.bytes_after > 0


def test_caches_of_two_networks_are_merged(tmp_path: Path) -> None:
    does("timing_cache")
    caches = tmp_path / ".timing"
    one, _ = build(net(tmp_path / "net"), tmp_path / "one", timing_caches=caches)
    (tmp_path / "other").mkdir()
    two, _ = build(convolution(tmp_path / "other"), tmp_path / "two", timing_caches=caches)
    assert one.timing_cache is not None
    assert two.timing_cache is not None
    assert two.timing_cache.bytes_after >= one.timing_cache.bytes_after


@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_new_weights_go_into_the_old_engine(kind: str, tmp_path: Path) -> None:
    before, after = net(tmp_path / "before", 0, kind), net(tmp_path / "after", 1, kind)
    options: dict[str, JsonValue] = {"refittable": True}
    built, _ = build(before, tmp_path / "built", options)
    assert (built.way, "no earlier engine" in built.way_reason) == ("built", True)
    known = (earlier(built, tmp_path / "built"),)
    metrics, _ = build(after, tmp_path / "refitted", options, earlier=known)
    print(f"{kind}: built in {built.seconds} s; {metrics.way} in {metrics.seconds} s: {metrics.way_reason}")  # noqa: T201
    assert metrics.way == "refitted", metrics.way_reason
    rebuilt, _ = build(after, tmp_path / "rebuilt", options)
    ours, theirs = run(tmp_path / "refitted", after.batches), run(tmp_path / "rebuilt", after.batches)
    old = run(tmp_path / "built", after.batches)
    bound = 1e-4 if kind == "fp32" else 1e-2
    assert distance(ours, theirs) < bound
    assert distance(old, theirs) > 10 * bound
    if kind == "fp32":
        assert distance(ours, reference(after, tmp_path / "reference")) < bound
    again, _ = build(before, tmp_path / "back", options, earlier=(earlier(metrics, tmp_path / "refitted"),))
    assert again.way == "refitted", again.way_reason
    assert distance(run(tmp_path / "back", before.batches), run(tmp_path / "built", before.batches)) < bound
    assert rebuilt.way == "built"


def test_batch_normalization_is_refitted_or_built_and_right(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    (tmp_path / "after").mkdir()
    before, after = convolution(tmp_path / "before"), convolution(tmp_path / "after")
    model = onnx.load(after.model)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(1.5 * onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, after.model)
    options: dict[str, JsonValue] = {"refittable": True}
    built, _ = build(before, tmp_path / "built", options)
    metrics, _ = build(after, tmp_path / "new", options, earlier=(earlier(built, tmp_path / "built"),))
    if metrics.way == "built":
        assert "arrays wrongly" in metrics.way_reason
    print(f"batch normalization: {metrics.way}: {metrics.way_reason}")  # noqa: T201 - evidence, with -s
    ours, theirs = run(tmp_path / "new", after.batches), reference(after, tmp_path / "reference")
    assert distance(ours, theirs) < 1e-4


def test_an_engine_that_cannot_be_refitted_is_built(tmp_path: Path) -> None:
    before, after = net(tmp_path / "before"), net(tmp_path / "after", 1)
    built, _ = build(before, tmp_path / "built")  # without the option
    options: dict[str, JsonValue] = {"refittable": True}
    metrics, _ = build(after, tmp_path / "new", options, earlier=(earlier(built, tmp_path / "built"),))
    assert (metrics.way, bool(metrics.way_reason)) == ("built", True)
    assert distance(run(tmp_path / "new", after.batches), reference(after, tmp_path / "reference")) < 1e-4


def test_tensorrt_calibrates_by_itself_on_8_6(tmp_path: Path) -> None:
    plain = net(tmp_path / "plain")
    calibration = tmp_path / "calibration.safetensors"
    save_batches(calibration, [{"image": random(20 + index, 8, 16, 32, 32)} for index in range(4)])
    lowered = replace(plain, precision="int8")
    if version() != 8:
        with pytest.raises(StepError, match="no calibrator"):
            build(lowered, tmp_path / "int8", calibration=calibration)
        return
    before = free_bytes()
    build(lowered, tmp_path / "int8", calibration=calibration)
    cache = (tmp_path / "int8" / "calibration.cache").read_bytes()
    assert b"EntropyCalibration2" in cache
    assert before - free_bytes() < SLACK_BYTES
    found = distance(run(tmp_path / "int8", plain.batches), reference(plain, tmp_path / "reference"))
    print(f"int8 by TensorRT's calibrator: rel_l2 {found:.4f}")  # noqa: T201 - evidence, with -s
    assert 1e-5 < found < 0.3


def test_a_thousand_inferences_leave_no_memory_behind(tmp_path: Path) -> None:
    given = net(tmp_path / "net")
    _, card = build(given, tmp_path / "engine")
    outside = free_bytes()
    with load_runtime(NAME).open(tmp_path / "engine" / ENGINE, card, OpenOptions(timed=False)) as session:
        for index in range(WARM_UP):
            session.infer(given.batches[index % 3])
        inside = free_bytes()
        for index in range(MANY):
            session.infer(given.batches[index % 3])
        session.time(given.batches[0], 0.2)
        assert inside - free_bytes() < SLACK_BYTES
    for _ in range(20):
        with load_runtime(NAME).open(tmp_path / "engine" / ENGINE, card, OpenOptions(timed=False)) as session:
            session.infer(given.batches[0])
    assert outside - free_bytes() < SLACK_BYTES


def test_failing_sessions_leave_no_memory_behind(tmp_path: Path) -> None:
    given = net(tmp_path / "net")
    _, card = build(given, tmp_path / "engine")
    engine = tmp_path / "engine" / ENGINE
    damaged = tmp_path / "damaged.engine"
    damaged.write_bytes(bytes(engine.stat().st_size))  # as long as its card says, and no plan
    before = free_bytes()
    for _ in range(20):
        with pytest.raises(StepError, match="does not open"):
            load_runtime(NAME).open(damaged, card, OpenOptions(timed=False))
        with (
            pytest.raises(StepError, match="batch = 9, the engine takes 1 to 8"),
            load_runtime(NAME).open(engine, card, OpenOptions(timed=False)) as session,
        ):
            session.infer({"image": random(1, 9, 16, 32, 32)})
    assert before - free_bytes() < SLACK_BYTES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: {"runtime_version": "7.0.0"}, "was made by tensorrt 7.0.0"),
        (lambda _: {"host": {"gpu": "another GPU", "driver": "1"}}, "was built on"),
        (lambda card: {"engine_bytes": card.engine_bytes + 1}, "the file is damaged"),
    ],
)
def test_an_engine_of_elsewhere_is_refused_before_it_is_opened(
    change: Callable[[EngineCard], dict[str, object]], message: str, tmp_path: Path
) -> None:
    _, card = build(net(tmp_path / "net"), tmp_path / "engine")
    with pytest.raises(StepError) as raised:
        load_runtime(NAME).open(tmp_path / "engine" / ENGINE, card.model_copy(update=change(card)), OpenOptions())
    assert message in str(raised.value)


_HOARD = """
import sys
from pathlib import Path
from typing import Final
import pycuda.driver as cuda
from tasks.core.errors import StepError
from tasks.runtimes.tensorrt_session import Primary
from tests.gpu.test_tensorrt_builds import run
from tests.runtimes.contract import random

primary, hoard, size = Primary(), [], 2**30
while size >= 2**16:
    try:
        hoard.append(cuda.mem_alloc(size))
    except cuda.MemoryError:
        size //= 2
try:
    run(Path(sys.argv[1]), [{"image": random(1, 8, 16, 32, 32)}])
except StepError as error:
    print(error)
finally:
    hoard.clear()
    primary.close()
"""


def test_a_gpu_without_memory_is_an_error_with_figures(tmp_path: Path) -> None:
    """In a process of its own: what native code makes of it must not end the tests."""
    given = net(tmp_path / "net")
    build(given, tmp_path / "engine")
    command = [sys.executable, "-c", _HOARD, str(tmp_path / "engine")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    print(done.stdout, done.stderr)  # noqa: T201 - evidence, with -s
    assert done.returncode == 0
    assert "GiB of the GPU's" in done.stdout
    assert len(run(tmp_path / "engine", given.batches)) == 3


def test_too_small_a_workspace_is_an_engine_or_an_error_with_figures(tmp_path: Path) -> None:
    """Whether a kernel fits into so little is TensorRT's business; that it says so clearly is ours."""
    given, cure = net(tmp_path / "net"), ""
    try:
        build(given, tmp_path / "engine", {"workspace_bytes": 1})
    except StepError as error:
        cure = error.cure
    print(cure or "it was built")  # noqa: T201 - evidence, with -s
    assert "workspace_bytes is" in cure or (tmp_path / "engine" / ENGINE).is_file()


_BUILD = """
import sys
from pathlib import Path
from typing import Final
from tests.gpu.test_tensorrt_builds import build, net

folder = Path(sys.argv[1])
given = net(folder / "net")
print("ready", flush=True)
build(given, folder / "engine", timing_caches=folder / ".timing")
"""


def test_a_build_that_is_killed_leaves_no_memory_and_no_engine(tmp_path: Path) -> None:
    before = free_bytes()
    command = [sys.executable, "-c", _BUILD, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 60
        while before - free_bytes() < SLACK_BYTES and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)  # until it holds memory of the GPU: it builds
        assert process.poll() is None, "the build ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(30) == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while before - free_bytes() >= SLACK_BYTES and time.monotonic() < deadline:
        time.sleep(0.1)  # a driver frees what the dead held a moment later
    assert before - free_bytes() < SLACK_BYTES
    assert not (tmp_path / "engine" / ENGINE).exists()
    assert not list((tmp_path / ".timing").glob("*.cache"))
    metrics, _ = build(net(tmp_path / "again"), tmp_path / "anew", timing_caches=tmp_path / ".timing")
    assert metrics.size_bytes > 0
