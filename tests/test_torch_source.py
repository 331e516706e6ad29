"""Torch modules as the source: factories and checkpoints that break their contract, and one that keeps it."""

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from tests.projects import QUICK, Finished, Project

pytestmark = pytest.mark.slow

MODULE = """\
import ctypes, os, signal, sys
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 3)
    def forward(self, x): return self.fc(x)

class Frozen(Net):
    def forward(self, x):
        return self.fc(x) if x.shape[0] == 4 else self.fc(-x)

class Branching(Net):
    def forward(self, x):
        return self.fc(x) if x.shape[0] == 2 else self.fc(-x)

class Fails(Net):
    def forward(self, x): raise ValueError("no way forward")

class Misfit(Net):
    def forward(self, x):
        return self.fc(x[:, :2])  # the line that is told

class Two(Net):
    def forward(self, x): return self.fc(x), x.sum(1)

class Text(Net):
    def forward(self, x): return "text"

class Sentence(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 4)
        self.fc = nn.Linear(4, 3)
    def forward(self, token, x):
        word = self.table(token) + x
        return {"logits": self.fc(word.mean(1)), "words": word, "tokens": token + 1}

def net(): return Net()
def frozen(): return Frozen()
def branching(): return Branching()
def fails(): return Fails()
def misfit(): return Misfit()
def two(): return Two()
def text(): return Text()
def sentence(): return Sentence()
def raises(): raise RuntimeError("no weights today")
def returns_class(): return Net
def returns_state(): return Net().state_dict()
def returns_none(): pass
def takes_arguments(size): return Net()
def segfault(): ctypes.string_at(0)
def killed(): os.kill(os.getpid(), signal.SIGKILL)
def exits(): sys.exit(3)
"""
# Of each factory: message and cure.
FACTORIES = {
    "raises": ("zoo:raises raised RuntimeError: no weights today", "zoo.py:"),
    "returns_class": ("zoo:returns_class returned a type, expected a torch.nn.Module", "not its class"),
    "returns_state": ("zoo:returns_state returned a OrderedDict", "or its weights"),
    "returns_none": ("zoo:returns_none returned a NoneType", "return the module"),
    "takes_arguments": ("missing 1 required positional argument: 'size'", "how zoo:takes_arguments is defined"),
    "fails": ("zoo:fails raised ValueError: no way forward", "zoo.py:"),
    "misfit": (
        "mat1 and mat2 shapes cannot be multiplied",
        f"zoo.py:{MODULE[: MODULE.index('# the line')].count(chr(10)) + 1}",
    ),
    "text": ("forward returned something else than tensors", "return a tensor"),
    "two": ("zoo:two has 2 outputs (output_0, output_1), 1 are named", "one name for each"),
    "frozen": ("input 'x' was exported with shape [4, 4], expected ['batch', 4]", "fixes that dim"),
    "branching": ("the exported graph computes something else where batch = 2", "narrow `dims`"),
    "segfault": ("killed by SIGSEGV", "native code crashed"),
    "killed": ("killed by SIGKILL: most likely the system ran out of memory", "more memory"),
    "exits": ("zoo:exits called sys.exit(3)", "raise an error"),
}
CHECKPOINTS = {
    "shapes.safetensors": ("does not fit the module: size mismatch for fc.weight", "of this architecture"),
    "missing.safetensors": ('Missing key(s) in state_dict: "fc.bias"', "of this architecture"),
    "extra.safetensors": ('Unexpected key(s) in state_dict: "more"', "of this architecture"),
    "cut.safetensors": ("cut.safetensors cannot be read", "write it again"),
    "empty.safetensors": ("empty.safetensors cannot be read", "write it again"),
    "code.pt": ("needs code to be read (posix.system), and that is not run", "save the state_dict alone"),
    "code.pkl": ("needs code to be read", "save the state_dict alone"),
    "whole.pt": ("needs code to be read (torch.nn.modules.linear.Linear)", "save the state_dict alone"),
    "cut.pt": ("cut.pt cannot be read", "write it again"),
    "text.pt": ("text.pt cannot be read", "write it again"),
    "empty.pt": ("empty.pt cannot be read", "write it again"),
    "list.pt": ("list.pt holds no state_dict", "torch.save(module.state_dict(), path)"),
}
INPUTS: dict[str, Any] = {
    "inputs": {"x": {"dtype": "float32", "shape": ["batch", 4]}},
    "dims": {"batch": {"min": 1, "opt": 4, "max": 8}},
    **QUICK,
}
SENTENCE: dict[str, Any] = {
    "model": {"torch": "zoo:sentence", "checkpoint": "lightning.pt"},
    "inputs": {
        "x": {"dtype": "float32", "shape": ["batch", "length", 4]},
        "token": {"dtype": "int64", "shape": ["batch", "length"], "range": [0, 9]},
    },
    "dims": {"batch": {"min": 1, "opt": 2, "max": 4}, "length": {"min": 2, "opt": 3, "max": 16}},
    **QUICK,
}


class _Code:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch {self.file}",)


def _write_checkpoints(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    state = {"fc.weight": torch.ones(3, 4), "fc.bias": torch.zeros(3)}
    save_file({name: torch.ones(5, *tensor.shape[1:]) for name, tensor in state.items()}, folder / "shapes.safetensors")
    save_file({"fc.weight": state["fc.weight"]}, folder / "missing.safetensors")
    save_file({**state, "more": torch.ones(1)}, folder / "extra.safetensors")
    whole = (folder / "extra.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-10])
    (folder / "empty.safetensors").write_bytes(b"")
    torch.save({"state_dict": state, "extra": _Code(folder / "executed")}, folder / "code.pt")
    (folder / "code.pkl").write_bytes(pickle.dumps(_Code(folder / "executed")))
    torch.save(torch.nn.Linear(4, 3), folder / "whole.pt")
    (folder / "cut.pt").write_bytes((folder / "whole.pt").read_bytes()[:300])
    (folder / "text.pt").write_text("this is no checkpoint")
    (folder / "empty.pt").write_bytes(b"")
    torch.save([1, 2], folder / "list.pt")
    sentence = {"table.weight": torch.ones(10, 4), "fc.weight": torch.ones(3, 4), "fc.bias": torch.zeros(3)}
    torch.save({"state_dict": sentence, "epoch": 3, "hyper_parameters": {"lr": 0.1}}, folder / "lightning.pt")


def _pipeline(factory: str, **more: object) -> dict[str, Any]:
    return {"model": {"torch": f"zoo:{factory}"}, **INPUTS, **more}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    folder = tmp_path_factory.mktemp("torch") / "project"
    folder.mkdir()
    (folder / "zoo.py").write_text(MODULE)
    _write_checkpoints(folder)
    return Project(folder)


@pytest.fixture(scope="module")
def ran(project: Project) -> Finished:
    """All of them in one command: torch is imported once."""
    project.write(
        sentence=SENTENCE,
        **{name: _pipeline(name, **({"outputs": ["a"]} if name == "two" else {})) for name in FACTORIES},
        **{f"c-{name}": {"model": {"torch": "zoo:net", "checkpoint": name}, **INPUTS} for name in CHECKPOINTS},
    )
    return project.run("run", "--json")


def _check(ran: Finished, pipeline: str, told: tuple[str, str]) -> None:
    engine = ran.engine(pipeline)
    assert (ran.runs[pipeline].status, engine.status, ran.status(pipeline, "export")) == ("failed", "error", "failed")
    message, cure = told
    assert message in engine.reason
    assert cure in engine.reason


@pytest.mark.parametrize("name", FACTORIES)
def test_factory_that_breaks_its_contract(ran: Finished, name: str) -> None:
    _check(ran, name, FACTORIES[name])


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoint_that_cannot_be_used(ran: Finished, name: str) -> None:
    _check(ran, f"c-{name}", CHECKPOINTS[name])


def test_code_in_a_checkpoint_is_not_run(project: Project, ran: Finished) -> None:
    assert {ran.engine(f"c-{name}").status for name in ("code.pt", "code.pkl")} == {"error"}
    assert not (project.folder / "executed").exists()


def test_several_inputs_outputs_and_dims_with_a_lightning_checkpoint(project: Project, ran: Finished) -> None:
    assert ran.engine("sentence").status == "passed", ran.engine("sentence").reason
    assert ran.code == 1
    (report,) = (project.artifact("sentence", "export")).glob("report.json")
    assert '"logits"' in report.read_text()
