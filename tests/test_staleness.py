"""A changed model is never served stale, whichever way it changed; an unchanged rerun, and one changed back, is a hit.

The real steps run in real workers. The model adds a value to its input, so that what an export was made from can be
read from the source framework's own outputs.
"""

import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import external_data_helper, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from flows.journal import Journal
from tasks.context import Context
from tasks.core.config import PipelineConfig
from tasks.core.errors import ConfigError, StepError
from tasks.core.locks import HostLock
from tasks.core.store import Store
from tasks.data import prepare_data
from tasks.evaluate import SOURCE, EvaluateMetrics, evaluate
from tasks.export import export
from tasks.inspect import inspect_source, signature_of
from tasks.runtimes.isolate import Workers
from tasks.sources.onnx_graph import GraphFacts

pytestmark = pytest.mark.slow

TORCH: dict[str, Any] = {
    "model": {"torch": "model:build"},
    "inputs": {"x": {"dtype": "float32", "shape": [2, 3]}},
    "export": {"exporter": "torchscript", "opset": 18},  # ten times as fast as the other one
    "data": {"evaluation": {"source": "data:evaluation"}},
}
MODEL = """\
import torch
{imports}

class Shift(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.value = torch.nn.Parameter(torch.full((3,), float({value})))

    def forward(self, x):
        return x + self.value

def build():
    return Shift()
"""
DATA = """\
import numpy as np

def evaluation():
    for _ in range(2):
        yield {{"x": np.full((2, 3), {value}, np.float32)}}, {{"y": np.zeros(2)}}

def metric(outputs, targets, reference):
    return float(outputs["output"].mean()) + 0
"""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a folder of installed packages, on the path of this process and of the workers."""
    folder = tmp_path_factory.mktemp("environment") / "site-packages"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        patch.setattr(sys, "path", [*sys.path, str(folder)])
        yield folder


@pytest.fixture(scope="module")
def workers(packages: Path) -> Iterator[Workers]:
    assert packages.is_dir()  # before the workers start: they inherit the path
    with Workers(timeout_seconds=120) as shared:
        yield shared


@dataclass
class Run:
    """What one run gave: which steps were cached, their keys, and the first output of the source framework."""

    cached: dict[str, bool]
    keys: dict[str, str]
    value: float


@dataclass
class Project:
    """A folder with a model and its data, and a store beside it."""

    folder: Path
    workers: Workers
    config: dict[str, Any] = field(default_factory=lambda: TORCH)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def model(self, value: str = "1", imports: str = "") -> None:
        self.write("model.py", MODEL.format(value=value, imports=imports))

    def context(self) -> Context:
        store = Store(self.folder.parent / "store", self.folder)
        config = PipelineConfig.model_validate(self.config)
        return Context("p", config, store, self.workers, Journal(), HostLock(self.folder.parent))

    def run(self) -> Run:
        """Run the steps from the source to the metric of the source framework."""
        context = self.context()
        facts = context.metrics(inspect_source(context), GraphFacts) if "onnx" in self.config["model"] else None
        signature = signature_of("p", context.config, facts)
        data = prepare_data(context, signature)
        exported = export(context, signature, data, facts.external_files if facts else ())
        made = {"data": data, "export": exported}
        evaluation = context.config.data.evaluation
        if evaluation and evaluation.metric:
            made["evaluate"] = evaluate(context, SOURCE, data, exported, None)
        outputs = load_file(context.file(exported, "golden_outputs.safetensors"))
        value = float(next(iter(outputs.values())).ravel()[0])
        if "evaluate" in made:
            value = context.metrics(made["evaluate"], EvaluateMetrics).value
        assert isinstance(context.journal, Journal)
        states = {entry.step: entry.state == "cached" for entry in context.journal.entries.values()}
        return Run(states, {step: artifact.key for step, artifact in made.items()}, value)


@pytest.fixture
def project(tmp_path: Path, workers: Workers) -> Project:
    made = Project(tmp_path / "project", workers)
    made.write("data.py", DATA.format(value=0))
    made.model()
    return made


def check(project: Project, change: Callable[[], object], step: str, values: tuple[float, float] = (1, 2)) -> None:
    """Run, run again, change, run twice, change back: the step is made when it must be, and only then."""
    first = project.run()
    assert (first.cached[step], first.value) == (False, values[0])
    again = project.run()
    assert set(again.cached.values()) == {True}, again.cached
    kept = project.folder.parent / "kept"
    shutil.copytree(project.folder, kept, ignore=shutil.ignore_patterns("__pycache__"))
    change()
    changed = project.run()
    assert (changed.cached[step], changed.value) == (False, values[1])
    assert changed.keys[step] != first.keys[step]
    again = project.run()
    assert set(again.cached.values()) == {True}
    assert (again.keys, again.value) == (changed.keys, values[1])
    shutil.rmtree(project.folder)
    shutil.copytree(kept, project.folder)  # other inodes and times, the same bytes
    back = project.run()
    assert set(back.cached.values()) == {True}, back.cached
    assert (back.keys, back.value) == (first.keys, values[0])


def state(value: float) -> dict[str, torch.Tensor]:
    return {"value": torch.full((3,), float(value))}


def save_safetensors(path: Path, value: float) -> None:
    save_file({"value": np.full(3, value, np.float32)}, path)


def save_pt(path: Path, value: float) -> None:
    torch.save(state(value), path)


def save_script(path: Path, value: float) -> None:
    module = torch.nn.Linear(1, 3)
    module.bias.data = state(value)["value"]
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # but such files are about
        torch.jit.save(torch.jit.script(module), path)


def save_numpy(path: Path, value: float) -> None:
    np.save(path, np.full(3, value, np.float32))


@pytest.mark.parametrize(("name", "save"), [("w.safetensors", save_safetensors), ("w.pt", save_pt)])
def test_declared_checkpoint(project: Project, name: str, save: Callable[[Path, float], None]) -> None:
    project.config = TORCH | {"model": {"torch": "model:build", "checkpoint": name}}
    save(project.folder / name, 1)
    check(project, lambda: save(project.folder / name, 2), "export")


@pytest.mark.parametrize(
    ("name", "save", "load"),
    [
        ("w.pt", save_pt, "torch.load('w.pt')['value'][0]"),
        ("w.pt", save_pt, "torch.load('w.pt', mmap=True)['value'][0]"),
        ("w.ts", save_script, "torch.jit.load('w.ts').bias[0]"),
        (
            "w.safetensors",
            save_safetensors,
            "__import__('safetensors.torch').torch.load_file('w.safetensors')['value'][0]",
        ),
        ("w.npy", save_numpy, "__import__('numpy').load('w.npy')[0]"),
    ],
)
def test_file_that_the_factory_opens_by_itself(
    project: Project, name: str, save: Callable[[Path, float], None], load: str
) -> None:
    project.model(load)
    save(project.folder / name, 1)
    check(project, lambda: save(project.folder / name, 2), "export")


def test_code_of_the_factory(project: Project) -> None:
    check(project, lambda: project.model("2"), "export")


def test_helper_module_that_the_factory_imports(project: Project) -> None:
    project.write("parts/helper.py", "VALUE = 1\n")
    project.model("VALUE", "from parts.helper import VALUE")
    check(project, lambda: project.write("parts/helper.py", "VALUE = 2\n"), "export")


def test_module_that_the_factory_looked_for_in_vain(project: Project) -> None:
    project.model("VALUE", "try:\n    from settings import VALUE\nexcept ImportError:\n    VALUE = 1")
    check(project, lambda: project.write("settings.py", "VALUE = 2\n"), "export")


def test_file_that_the_factory_asked_for_in_vain(project: Project) -> None:
    project.model("open('value').read() if os.path.exists('value') else 1", "import os")
    check(project, lambda: project.write("value", "2"), "export")


def test_folder_that_the_factory_lists(project: Project) -> None:
    project.write("shards/a", "")
    project.model("len(list(Path('shards').iterdir()))", "from pathlib import Path")
    check(project, lambda: project.write("shards/b", ""), "export")


def test_file_that_is_declared_because_it_cannot_be_seen(project: Project) -> None:
    project.config = TORCH | {"model": {"torch": "model:build", "files": ["weights/*.txt", "*.cfg"]}}
    project.write("weights/a.txt", "1")
    project.write("x.cfg", "")
    project.model("subprocess.check_output(['sh', '-c', 'cat weights/*.txt'])", "import subprocess")
    check(project, lambda: project.write("weights/a.txt", "2"), "export")


def test_file_that_comes_to_match_a_declared_pattern(project: Project) -> None:
    project.config = TORCH | {"model": {"torch": "model:build", "files": ["weights/**/*.txt"]}}
    project.write("weights/a.txt", "1")
    project.model("subprocess.check_output(['sh', '-c', 'cat weights/*.txt weights/*/*.txt'])", "import subprocess")
    project.write("weights/deep/none.txt", "")
    check(project, lambda: project.write("weights/deep/b.txt", "2"), "export", (1, 12))


def test_declared_pattern_that_matches_nothing_is_named(project: Project) -> None:
    project.config = TORCH | {"model": {"torch": "model:build", "files": ["weights/*.bin"]}}
    with pytest.raises(ConfigError, match=r"no file matches 'weights/\*.bin'"):
        project.run()


def test_version_of_a_package_that_the_factory_imports(project: Project, packages: Path) -> None:
    def install(version: int) -> None:
        shutil.rmtree(packages)
        info = packages / f"shapes-{version}.0.dist-info"
        info.mkdir(parents=True)
        (packages / "shapes.py").write_text(f"VALUE = {version}\n")
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: shapes\nVersion: {version}.0\n")
        (info / "RECORD").write_text(f"shapes.py,,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n")

    project.model("shapes.VALUE", "import shapes")
    install(1)
    first = project.run()
    assert (project.run().cached["export"], first.value) == (True, 1)
    install(2)
    changed = project.run()
    assert (changed.cached, changed.value) == ({"data": True, "export": False}, 2)
    assert project.run().cached["export"]
    install(1)
    back = project.run()
    assert (back.cached["export"], back.keys, back.value) == (True, first.keys, 1)


def test_code_of_the_data_source(project: Project) -> None:
    check(project, lambda: project.write("data.py", DATA.format(value=10)), "data", (1, 11))


def test_file_of_the_data_source(project: Project) -> None:
    project.write("data.py", DATA.format(value="np.load('x.npy')[0]"))
    save_numpy(project.folder / "x.npy", 10)
    check(project, lambda: save_numpy(project.folder / "x.npy", 20), "data", (11, 21))


def test_data_that_gives_the_same_again_does_not_touch_the_model(project: Project) -> None:
    project.run()
    project.write("data.py", "# a remark\n" + DATA.format(value=0))
    assert project.run().cached == {"data": False, "export": True}


def test_archive_with_the_evaluation_data(project: Project) -> None:
    def save(value: float) -> None:
        np.savez(project.folder / "set.npz", x=np.full((2, 3), value, np.float32), target_y=np.zeros(2))

    save(10)
    project.config = TORCH | {"data": {"evaluation": {"source": "set.npz"}}}
    check(project, lambda: save(20), "data", (11, 21))


def test_code_of_the_metric(project: Project) -> None:
    metric = {"function": "data:metric"}
    project.config = TORCH | {"data": {"evaluation": {"source": "data:evaluation", "metric": metric}}}
    text = DATA.format(value=0)
    check(project, lambda: project.write("data.py", text.replace("+ 0\n", "+ 1\n")), "evaluate")


def test_checkpoint_that_is_replaced_while_it_is_read_is_a_clear_error(project: Project) -> None:
    project.config = TORCH | {"model": {"torch": "model:build", "checkpoint": "w.safetensors"}}
    path = project.folder / "w.safetensors"
    save_safetensors(path, 2)
    path.rename(project.folder / "next")
    save_safetensors(path, 1)
    project.model("(os.rename('next', 'w.safetensors'), 1)[1]", "import os")  # as a training job would
    with pytest.raises(StepError, match=r"w.safetensors changed while export read it"):
        project.run()
    project.model()
    assert project.run().value == 2


def save_onnx(folder: Path, value: float, data: str = "") -> None:
    weights = numpy_helper.from_array(np.full(3, value, np.float32), "w")
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2, 3]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", [x], [y], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if data:
        external_data_helper.convert_model_to_external_data(model, location=data, size_threshold=0)
        (folder / data).unlink(missing_ok=True)  # else it grows
    onnx.save(model, folder / "model.onnx")


@pytest.mark.parametrize("data", ["", "model.onnx.data", "any name at all", "weights.bin"])
def test_onnx_file_and_its_external_data_of_any_name(project: Project, data: str) -> None:
    project.config = {"model": {"onnx": "model.onnx"}, "data": TORCH["data"]}
    save_onnx(project.folder, 1, data)
    graph = (project.folder / "model.onnx").read_bytes()
    check(project, lambda: save_onnx(project.folder, 2, data), "export")
    save_onnx(project.folder, 2, data)
    assert ((project.folder / "model.onnx").read_bytes() == graph) == bool(data)  # only the data changed
