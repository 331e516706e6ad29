"""Convert the models of the onnx package's own backend tests: `make corpus` writes docs/evidence/corpus.json.

    .venv/bin/python benchmarks/corpus.py [--only NAME,NAME] [--keep FOLDER] [--output FILE]

Every model of `pytorch-converted` and `simple` that ONNX Runtime itself can load and run on its own test inputs, with
its defaults, is one pipeline of one `trtflow run --json`: fp32, with the model's test inputs as evaluation data and the
sizes of their dims. What passed is compared with the outputs that the model comes with, too. Exits 1 when a model that
ONNX Runtime runs was neither converted nor refused for a reason that REFUSED knows, or its outputs differ from its own.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime
import yaml
from onnx import numpy_helper
from onnx.onnx_cpp2py_export.checker import ValidationError
from onnxruntime.capi import onnxruntime_pybind11_state as state

sys.path.insert(0, str(Path(__file__).parents[1]))
from tasks.core.environment import environment
from tasks.core.outcome import EngineOutcome, RunOutcome, RunsOutcome
from tasks.core.tensors import load_batches

ROOT = Path(__file__).resolve().parents[1]
CORPUS = Path(onnx.__file__).parent / "backend/test/data"
GROUPS = ("pytorch-converted", "simple")
# True reasons, looked at one by one: part of what is said, and why it is so.
REFUSED = {
    "is of type string": "parity compares numbers, and the store keeps tensors as safetensors: neither has text",
    "found the number 0, expected at least 1": "its only test input is empty: no engine can be judged on that",
}
# The models' own outputs were computed by another framework, in float32.
RELATIVE, ABSOLUTE = 1e-3, 1e-5
# Runs what is in a folder, and gives what it prints.
Command: TypeAlias = Callable[[Path], str]


@dataclass
class Model:
    """One model of the corpus, its test inputs and outputs by name, and why ONNX Runtime does not run it."""

    name: str
    path: Path
    feeds: dict[str, Any] = field(default_factory=dict)
    expected: dict[str, Any] = field(default_factory=dict)
    dims: dict[str, int] = field(default_factory=dict)
    not_run: str = ""


def models(only: list[str]) -> Iterator[Model]:
    """Read the corpus, and have ONNX Runtime try each model."""
    for group in GROUPS:
        for folder in sorted((CORPUS / group).iterdir()):
            if not only or folder.name in only:
                yield tried(Model(folder.name, folder / "model.onnx"))


def tried(model: Model) -> Model:
    """Open a model in a default session and run it on its own test inputs."""
    onnxruntime.set_default_logger_severity(4)
    data = model.path.parent / "test_data_set_0"
    try:
        session = onnxruntime.InferenceSession(str(model.path))
        inputs = session.get_inputs()
        feeds = [read(data / f"input_{index}.pb") for index in range(len(inputs))]
        model.feeds = {value.name: feed for value, feed in zip(inputs, feeds, strict=True)}
        session.run(None, model.feeds)
    except (state.Fail, state.NotImplemented, state.InvalidGraph, state.InvalidArgument, ValidationError) as error:
        model.not_run = " ".join(str(error).split())[:200]
        return model
    outputs = session.get_outputs()
    model.expected = {value.name: read(data / f"output_{index}.pb") for index, value in enumerate(outputs)}
    for value in inputs:
        named = zip(value.shape, np.shape(model.feeds[value.name]), strict=True)
        model.dims |= {dim: size for dim, size in named if isinstance(dim, str)}
    return model


def read(path: Path) -> Any:  # noqa: ANN401 -- a numpy array of whatever type the tensor has
    """Read one tensor of a test data set."""
    return numpy_helper.to_array(onnx.TensorProto.FromString(path.read_bytes()))


def pipeline(model: Model, folder: Path) -> dict[str, object]:
    """Describe the smallest pipeline that is told the model's own inputs."""
    config: dict[str, object] = {
        "model": {"onnx": str(model.path)},
        "precisions": ["fp32"],
        "benchmark": {"seconds": 0.01, "baselines": False},
    }
    if model.dims:
        config["dims"] = {name: {"min": size, "opt": size, "max": size} for name, size in model.dims.items()}
    if all(np.asarray(feed).dtype.kind in "biuf" for feed in model.feeds.values()):
        np.savez(folder / f"{model.name}.npz", **model.feeds)
        config["data"] = {"evaluation": {"source": f"{model.name}.npz"}}
    return config


def as_a_user(folder: Path) -> str:
    """What the command prints in a folder with a YAML."""
    surroundings = {key: text for key, text in os.environ.items() if key != "PREFECT_API_URL"}
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "--json"],
        cwd=folder,
        env={**surroundings, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout.startswith(('{"error"', '{"runs"')):
        raise SystemExit(f"the command ended with {done.returncode}: {done.stdout}{done.stderr[-4000:]}")
    return done.stdout


def convert(runnable: list[Model], folder: Path, command: Command) -> dict[str, RunOutcome | str]:
    """Run the command over all of them; over those whose test inputs no YAML can name, one by one."""
    alone = [model for model in runnable if 0 in model.dims.values()]
    found: dict[str, RunOutcome | str] = {}
    for some in ([model for model in runnable if model not in alone], *([model] for model in alone)):
        found |= _run(some, folder, command)
    return found


def _run(some: list[Model], folder: Path, command: Command) -> dict[str, RunOutcome | str]:
    pipelines = {model.name[:64]: pipeline(model, folder) for model in some}
    text = yaml.safe_dump({"version": 1, "pipelines": pipelines}, sort_keys=False)
    (folder / "pipelines.yaml").write_text(text, encoding="utf-8")
    told = command(folder)
    if told.startswith('{"error"') and len(some) == 1:
        return {some[0].name[:64]: json.loads(told)["error"]["message"]}
    return {run.pipeline: run for run in RunsOutcome.model_validate_json(told).runs}


def differs(model: Model, engine: EngineOutcome, store: Path) -> str:
    """How an engine's outputs on the model's own inputs differ from the model's own outputs, empty where they agree."""
    folders = [path.parent for path in (store / "parity").glob("[!.]*/outputs.safetensors")]
    actual = load_batches(folders[0] / "outputs.safetensors")[0]
    for name, expected in model.expected.items():
        wanted = np.asarray(expected)
        if actual[name].shape != wanted.shape:
            return f"{engine.id}: output {name!r} has the shape {actual[name].shape}, expected {wanted.shape}"
        if not np.allclose(actual[name].astype(np.float64), wanted.astype(np.float64), RELATIVE, ABSOLUTE):
            far = np.abs(actual[name].astype(np.float64) - wanted).max()
            return f"{engine.id}: output {name!r} differs from the model's own by up to {far}"
    return ""


def judged(model: Model, run: RunOutcome | str, store: Path) -> dict[str, object]:
    """Say what became of one model that ONNX Runtime runs."""
    if isinstance(run, RunOutcome) and run.status == "passed":
        wrong = differs(model, run.engines[0], store / model.name[:64])
        return {"verdict": "wrong" if wrong else "passed", "reason": wrong}
    reason = run if isinstance(run, str) else run.engines[0].reason
    known = next((why for part, why in REFUSED.items() if part in reason), "")
    return {"verdict": "refused" if known else "failed", "reason": reason, "true_because": known}


def main(given: list[str] | None = None, command: Command = as_a_user) -> None:
    """Convert, count, list every refusal, and write the evidence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="models, with commas")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/evidence/corpus.json")
    arguments = parser.parse_args(given)
    corpus = list(models([name for name in arguments.only.split(",") if name]))
    runnable = [model for model in corpus if not model.not_run]
    with tempfile.TemporaryDirectory(prefix="trtflow-corpus-") as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        runs = convert(runnable, folder, command)
        verdicts = {model.name: judged(model, runs[model.name[:64]], folder / "artifacts") for model in runnable}
    counts = Counter(str(verdict["verdict"]) for verdict in verdicts.values())
    evidence = {
        "command": "python benchmarks/corpus.py",
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment().model_dump(mode="json"),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "models": len(corpus),
        "onnxruntime_runs": len(runnable),
        **{name: counts[name] for name in ("passed", "refused", "failed", "wrong")},
        "verdicts": verdicts,
        "onnxruntime_does_not_run": {model.name: model.not_run for model in corpus if model.not_run},
    }
    show(evidence, verdicts)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(evidence, indent=1) + "\n", encoding="utf-8")
    if counts["failed"] or counts["wrong"]:
        raise SystemExit(1)


def show(evidence: dict[str, object], verdicts: dict[str, dict[str, object]]) -> None:
    """Print the counts, and every model that did not pass."""
    print(f"{evidence['models']} models, of which onnxruntime runs {evidence['onnxruntime_runs']}:")
    print("  " + ", ".join(f"{evidence[name]} {name}" for name in ("passed", "refused", "failed", "wrong")))
    for name, verdict in verdicts.items():
        if verdict["verdict"] != "passed":
            print(f"  {name}: {verdict['verdict']}: {verdict['reason']}")


if __name__ == "__main__":
    main()
