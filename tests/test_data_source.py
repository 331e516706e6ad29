"""The user's data sources and metric: each way to break their contract is told, with the place in their code."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tests.projects import QUICK, Finished, Project, linear

MODULE = """\
import os, signal, sys
import numpy as np

def batch(size=4, dtype="float32"):
    return {"x": np.ones((size, 4), dtype)}

def good():
    print("printed by a data source")
    print("to stderr", file=sys.stderr)
    os.write(1, b"written past sys.stdout\\n")
    yield batch()

def nothing(): return iter([])
def returns_none(): pass
def names(): yield {"z": np.ones((4, 4), "float32")}
def dtype(): yield batch(dtype="float64")
def shape(): yield {"x": np.ones((4, 5), "float32")}
def rank(): yield {"x": np.ones(4, "float32")}
def nan(): yield {"x": np.full((4, 4), np.nan, "float32")}
def lists(): yield {"x": [[1.0] * 4]}
def no_dict(): yield [1, 2]
def too_large(): yield batch(64)
def empty(): yield batch(0)
def exits(): sys.exit("no data today")
def out_of_memory(): raise MemoryError
def killed(): os.kill(os.getpid(), signal.SIGKILL)
def ends(): os._exit(0)

def raises():
    yield batch()
    raise KeyError("label 17")  # the line that is told

def pairs(): yield batch(), {"label": np.zeros(4, "int64")}
def triple(): yield batch(), {}, {}
def no_targets(): yield batch(), [1, 2]
def text_targets(): yield batch(), {"label": np.array(["a", "b", "c", "d"])}
def object_targets(): yield batch(), {"label": np.array([{}] * 4, dtype=object)}
def unnamed_targets(): yield batch(), {3: np.zeros(4)}

def other_targets():
    yield batch(), {"label": np.zeros(4)}
    yield batch(), {"other": np.zeros(4)}

def ragged_targets():
    yield batch(), {"label": np.zeros((4, 2))}
    yield batch(), {"label": np.zeros((4, 3))}

def metric_raises(outputs, targets, reference): raise ValueError("bad metric")
def metric_nan(outputs, targets, reference): return float("nan")
def metric_text(outputs, targets, reference): return "0.9"
def metric_none(outputs, targets, reference): pass
def metric_arguments(outputs): return 1.0
def metric(outputs, targets, reference): print(sorted(targets)); return 1.0
"""
LINES = {text.split("(")[0].removeprefix("def "): number for number, text in enumerate(MODULE.splitlines(), 1)}

# What is wrong with a calibration source: message and cure.
CALIBRATION = {
    "nothing": ("data.calibration: zoo:nothing yielded nothing", "yield at least one batch"),
    "returns_none": ("zoo:returns_none returned None", "return an iterator"),
    "names": ("has the names ['z']; the model's inputs are ['x']", "missing: ['x'], not inputs: ['z']"),
    "dtype": ("batch 0, input 'x' has dtype float64, expected float32", ".astype('float32')"),
    "shape": ("input 'x' has shape [4, 5], expected ['batch', 4]", "correct `inputs`"),
    "rank": ("input 'x' has shape [4], expected ['batch', 4]", "correct `inputs`"),
    "nan": ("input 'x' holds NaN", "clean the data"),
    "lists": ("input 'x' is a list", "make it a numpy array"),
    "no_dict": ("batch 0 is a list", "yield a dict"),
    "too_large": ("has batch = 64, outside its range 1 to 8", "widen `dims.batch`"),
    "empty": ("has batch = 0, outside its range 1 to 8", "widen `dims.batch`"),
    "exits": ("zoo:exits called sys.exit('no data today')", "raise an error"),
    "out_of_memory": ("zoo:out_of_memory ran out of memory", "a machine with more memory"),
    "killed": ("killed by SIGKILL: most likely the system ran out of memory", "a machine with more memory"),
    "ends": ("exited with code 0 without an answer", "ended the process"),
    "raises": ("zoo:raises failed: there is no such key: 'label 17'", f"zoo.py:{LINES['raises'] + 2}"),
    "few": ("zoo:good yielded 4 samples, 100 were asked for", "set `data.calibration.samples: 4`"),
    "import": ("importing 'broken' needs the module 'a_module_that_nobody_has'", "broken.py:1"),
    "cut": ("cut.npz cannot be read: File is not a zip file", "numpy.savez"),
    "pickled": ("pickled.npz holds Python objects in 'x'", "booleans, integers or floats"),
}
EVALUATION = {
    "good": ("data.evaluation: batch 0 is a dict", "yield a pair"),
    "triple": ("data.evaluation: batch 0 is a tuple", "yield a pair"),
    "no_targets": ("the targets are a list", "yield a dict"),
    "text_targets": ("target 'label' has dtype <U1", "integers or floats"),
    "object_targets": ("target 'label' has dtype object", "integers or floats"),
    "unnamed_targets": ("a target has the name 3", "by strings"),
    "other_targets": ("batch 1 has the targets ['other'], the batches before it had ['label']", "the same targets"),
}
METRIC = {
    "metric_raises": ("zoo:metric_raises raised ValueError: bad metric", f"zoo.py:{LINES['metric_raises']}"),
    "metric_nan": ("zoo:metric_nan returned nan", "return a finite number"),
    "metric_text": ("zoo:metric_text returned a str", "return a float"),
    "metric_none": ("zoo:metric_none returned a NoneType", "return a float"),
    "metric_arguments": ("takes 1 positional argument but 3 were given", "how zoo:metric_arguments is defined"),
    "ragged_targets": ("'label' has other shapes in other evaluation batches", "pad the evaluation data"),
}
SOURCES = {"few": "zoo:good", "import": "broken:source", "cut": "cut.npz", "pickled": "pickled.npz"}
MODEL: dict[str, Any] = {"model": {"onnx": "model.onnx"}, "dims": {"batch": {"min": 1, "opt": 4, "max": 8}}, **QUICK}


def _calibrated(name: str) -> dict[str, Any]:
    few = {"samples": 100} if name == "few" else {}
    return {**MODEL, "data": {"calibration": {"source": SOURCES.get(name, f"zoo:{name}"), **few}}}


def _evaluated(source: str, metric: str) -> dict[str, Any]:
    return {**MODEL, "data": {"evaluation": {"source": f"zoo:{source}", "metric": {"function": f"zoo:{metric}"}}}}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    folder = tmp_path_factory.mktemp("data") / "project"
    folder.mkdir()
    onnx.save(linear("batch"), folder / "model.onnx")
    (folder / "zoo.py").write_text(MODULE)
    (folder / "broken.py").write_text("import a_module_that_nobody_has\n\n\ndef source(): ...\n")
    (folder / "cut.npz").write_bytes(b"PK\x03\x04 and no more")
    np.savez(folder / "pickled.npz", x=np.array([{}], dtype=object))
    project = Project(folder)
    project.write(
        **{f"c-{name}": _calibrated(name) for name in CALIBRATION},
        **{f"e-{name}": _evaluated(name, "metric") for name in EVALUATION},
        **{
            f"m-{name}": _evaluated("pairs", name) if name.startswith("metric") else _evaluated(name, "metric")
            for name in METRIC
        },
        **{"sound-calibration": _calibrated("good"), "sound-evaluation": _evaluated("pairs", "metric")},
    )
    return project.run("run", "--json")


def _check(ran: Finished, pipeline: str, step: str, told: tuple[str, str]) -> None:
    engine = ran.engine(pipeline)
    assert (ran.runs[pipeline].status, engine.status, ran.status(pipeline, step)) == ("failed", "error", "failed")
    message, cure = told
    assert message in engine.reason.split("\n")[0]
    assert cure in engine.reason
    assert ran.runs[pipeline].promoted is None


@pytest.mark.parametrize("name", CALIBRATION)
def test_calibration_source_that_breaks_its_contract(ran: Finished, name: str) -> None:
    _check(ran, f"c-{name}", "data", CALIBRATION[name])


@pytest.mark.parametrize("name", EVALUATION)
def test_evaluation_source_that_breaks_its_contract(ran: Finished, name: str) -> None:
    _check(ran, f"e-{name}", "data", EVALUATION[name])


@pytest.mark.parametrize("name", METRIC)
def test_metric_that_breaks_its_contract(ran: Finished, name: str) -> None:
    _check(ran, f"m-{name}", "evaluate", METRIC[name])


def test_what_sound_sources_print_is_not_in_the_json(ran: Finished) -> None:
    assert ran.code == 1
    assert ran.engine("sound-calibration").status == "passed"
    assert ran.engine("sound-evaluation").metric == 1.0
    assert "printed by" not in ran.stdout + ran.stderr


def test_debug_shows_the_users_traceback(tmp_path: Path) -> None:
    onnx.save(linear("batch"), tmp_path / "model.onnx")
    (tmp_path / "zoo.py").write_text(MODULE)
    project = Project(tmp_path)
    project.write(a=_calibrated("raises"))
    process = project.start("run", "--json", "--debug")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "# the line that is told" in stderr
    assert Finished(1, stdout, stderr).runs["a"].status == "failed"
