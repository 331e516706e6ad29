"""The step that tells of an engine's layers, in a worker, and what a run says of streams where there are none."""

from pathlib import Path

import pytest

from tasks.core.errors import CannotRun, StepError
from tasks.runtimes.engines import TimeOpening, TimeTurn, time_engine
from tasks.runtimes.layer_times import LayersRequest, graph_of, time_layers
from tasks.runtimes.load import LAYERED, load_runtime
from tests.commands import TINY
from tests.projects import Project
from tests.runtimes.contract import build, convolution


def test_runtimes_that_time_no_layers_say_so(tmp_path: Path) -> None:
    given = convolution(tmp_path)
    built = build("onnxruntime", given, tmp_path / "engine")
    request = LayersRequest(
        engine=built.engine,
        card=built.engine.with_name("card.json"),
        feeds=given.golden,
        model=given.model,
        signature=given.signature,
        folder=tmp_path,
    )
    with pytest.raises(CannotRun, match="times no layers"):
        time_layers(request)
    assert graph_of(given.model).operators["conv"] == "Conv"


def test_figures_of_a_gpu_are_refused_where_there_is_none(tmp_path: Path) -> None:
    given = convolution(tmp_path)
    built = build("onnxruntime", given, tmp_path / "engine")
    files = {"engine": built.engine, "card": built.engine.with_name("card.json"), "feeds": given.golden}
    talk = time_engine(TimeOpening.model_validate(files))
    assert not next(talk).on_gpu
    with pytest.raises(StepError, match="on no GPU"):
        talk.send(TimeTurn(point=0, seconds=0.0, streams=()))


def test_runtimes_with_layers_are_those_that_probe_names() -> None:
    for name in ("onnxruntime", "reference", *LAYERED):
        here = load_runtime(name).probe()
        assert here.layers == (name in LAYERED) or not here.available


def test_streams_that_nothing_has_are_told(new: Project) -> None:
    new.write(tiny={**TINY, "engines": [{"runtime": "onnxruntime"}], "benchmark": {"seconds": 0.02, "streams": [1, 2]}})
    assert new.run("run", "--json").code == 0
    assert any("benchmark.streams measured nothing" in note for note in new.record("tiny").notes)
    new.write(tiny={**TINY, "benchmark": {"streams": [0]}})
    assert new.run("validate").code == 2
