"""Convert the models of the onnx package's own backend tests: `make corpus` writes docs/evidence/corpus.json.

    .venv/bin/python benchmarks/corpus.py [--group NAME,NAME] [--only NAME,NAME] [--every N] [--keep FOLDER]
                                          [--output FILE]

Every model that ONNX Runtime itself can load and run on its own test inputs, with its defaults, is one pipeline of
`trtflow run --json`: fp32, with the model's test inputs as evaluation data and the sizes of their dims. What passed is
compared with the outputs that the model comes with, too. A model that falls under a limit of trtflow must be refused
for that limit, by name; which limits those are is read from its graph, here. Exits 1 where another model is refused and
less than 97 % pass, where an engine that passed is wrong, or where a refusal does not name its limit.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnxruntime
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.corpus_models import GROUPS, LIMITS, Model, models
from tasks.core.environment import environment
from tasks.core.outcome import EngineOutcome, RunOutcome, RunsOutcome
from tasks.core.tensors import load_batches

ROOT = Path(__file__).resolve().parents[1]
# The models' own outputs were computed by another implementation, in float32.
RELATIVE, ABSOLUTE = 1e-3, 1e-5
HALF_RELATIVE = 1e-2  # where an output is float16
SHARE = 0.97
# Pipelines of one command, and commands at once.
CHUNK, COMMANDS = 50, 2
# Runs what is in a folder, and gives what it prints.
Command: TypeAlias = Callable[[Path], str]
Array: TypeAlias = "np.ndarray[tuple[int, ...], np.dtype[np.generic]]"
Told: TypeAlias = dict[str, RunOutcome | str]


def pipeline(model: Model, folder: Path) -> dict[str, object]:
    """Describe the smallest pipeline that is told the model's own inputs."""
    config: dict[str, object] = {
        "model": {"onnx": str(model.path)},
        "precisions": ["fp32"],
        "engines": [{"runtime": "onnxruntime"}],
        "benchmark": {"seconds": 0.005, "baselines": False},
    }
    if model.dims:
        config["dims"] = {name: {"min": size, "opt": size, "max": size} for name, size in model.dims.items()}
    if all(isinstance(feed, np.ndarray) and feed.dtype.kind in "biuf" for feed in model.feeds.values()):
        np.savez(folder / f"{short(model)}.npz", **model.feeds)
        config["data"] = {"evaluation": {"source": f"{short(model)}.npz"}}
    return config


def short(model: Model) -> str:
    """The name of a model's pipeline: a name has at most 64 letters, and the ends of these names tell them apart."""
    return model.name if len(model.name) <= 64 else f"{model.name[:40]}.{model.name[-23:]}"


def as_a_user(folder: Path) -> str:
    """What the command prints in a folder with a YAML; it waits for no other command's benchmark."""
    surroundings = {key: text for key, text in os.environ.items() if key != "PREFECT_API_URL"}
    (folder / "locks").mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "flows.cli", "run", "--json"],
        cwd=folder,
        env={**surroundings, "PYTHONPATH": str(ROOT), "TRTFLOW_LOCKS": str(folder / "locks")},
        capture_output=True,
        text=True,
        check=False,
    )
    if not done.stdout.startswith(('{"error"', '{"runs"')):
        raise SystemExit(f"the command ended with {done.returncode}: {done.stdout}{done.stderr[-4000:]}")
    return done.stdout


def convert(runnable: list[Model], folder: Path, command: Command) -> Told:
    """Run the command over all of them in folders of some, two at a time; over empty dims, which no YAML has, alone."""
    alone = [model for model in runnable if 0 in model.dims.values()]
    many = [model for model in runnable if model not in alone]
    chunks = [many[begin : begin + CHUNK] for begin in range(0, len(many), CHUNK)] + [[model] for model in alone]
    with ThreadPoolExecutor(COMMANDS) as pool:
        told = pool.map(lambda each: _run(each[1], folder / f"{each[0]:03d}", command), enumerate(chunks))
    return {name: outcome for some in told for name, outcome in some.items()}


def _run(some: list[Model], folder: Path, command: Command) -> Told:
    folder.mkdir(parents=True, exist_ok=True)
    pipelines = {short(model): pipeline(model, folder) for model in some}
    text = yaml.safe_dump({"version": 1, "pipelines": pipelines}, sort_keys=False)
    (folder / "pipelines.yaml").write_text(text, encoding="utf-8")
    told = command(folder)
    print(".", end="", flush=True)
    if told.startswith('{"error"'):
        message = json.loads(told)["error"]["message"]
        if len(some) > 1:
            raise SystemExit(f"{folder}: {message}")
        return {short(some[0]): message}
    return {run.pipeline: run for run in RunsOutcome.model_validate_json(told).runs}


def differs(model: Model, engine: EngineOutcome, store: Path) -> str:
    """How an engine's outputs on the model's own inputs differ from the model's own outputs, empty where they agree.

    ONNX Runtime's own outputs count as well: it computes some of the models in another way than their authors.
    """
    folders = [path.parent for path in (store / "parity").glob("[!.]*/outputs.safetensors")]
    actual = load_batches(folders[0] / "outputs.safetensors")[0]
    for name in model.expected:
        problems = [_apart(actual[name], np.asarray(side[name])) for side in (model.expected, model.ran)]
        if all(problems):
            return f"{engine.id}: output {name!r} {problems[0]}"
    return ""


def _apart(actual: Array, wanted: Array) -> str:
    if actual.shape != wanted.shape:
        return f"has the shape {actual.shape}, expected {wanted.shape}"
    left, right = actual.astype(np.float64), wanted.astype(np.float64)
    relative = HALF_RELATIVE if wanted.dtype == np.float16 else RELATIVE
    if np.allclose(left, right, relative, ABSOLUTE, equal_nan=True):
        return ""
    return f"differs from the model's own by up to {np.abs(np.where(left == right, 0, left - right)).max()}"


def judged(model: Model, run: RunOutcome | str, stores: list[Path]) -> dict[str, object]:
    """Say what became of one model that ONNX Runtime runs."""
    if isinstance(run, RunOutcome) and run.status == "passed":
        store = next(store / short(model) for store in stores if (store / short(model)).is_dir())
        wrong = differs(model, run.engines[0], store)
        verdict = "wrong" if wrong else "mislabelled" if model.limits else "passed"
        return {"verdict": verdict, "reason": wrong or ", ".join(model.limits)}
    reason = run if isinstance(run, str) else run.engines[0].reason
    named = [limit for limit in model.limits if any(word in reason for word in LIMITS[limit])]
    verdict = "limited" if named else "mislabelled" if model.limits else "failed"
    return {"verdict": verdict, "reason": reason, "limit": ", ".join(named or model.limits)}


def main(given: list[str] | None = None, command: Command = as_a_user) -> None:
    """Convert, count, list every refusal, and write the evidence."""
    arguments = _arguments(given)
    names = [name for name in arguments.only.split(",") if name]
    corpus = list(models(arguments.group.split(","), names))[:: arguments.every]
    runnable = [model for model in corpus if not model.not_run]
    with tempfile.TemporaryDirectory(prefix="trtflow-corpus-") as scratch:
        folder = arguments.keep or Path(scratch)
        runs = convert(runnable, folder, command)
        stores = sorted(folder.glob("*/artifacts"))
        verdicts = {model.name: judged(model, runs[short(model)], stores) for model in runnable}
    counts = Counter(str(verdict["verdict"]) for verdict in verdicts.values())
    free = counts["passed"] + counts["failed"] + counts["wrong"]
    evidence = {
        "command": "python benchmarks/corpus.py",
        "date": datetime.now(UTC).date().isoformat(),
        "environment": environment().model_dump(mode="json"),
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "models": len(corpus),
        "onnxruntime_runs": len(runnable),
        **{name: counts[name] for name in ("passed", "failed", "wrong", "limited", "mislabelled")},
        "share_passed_of_those_without_a_limit": round(counts["passed"] / free, 4) if free else None,
        "limits": dict(Counter(str(each["limit"]) for each in verdicts.values() if each["verdict"] == "limited")),
        "refusals": {name: each for name, each in verdicts.items() if each["verdict"] != "passed"},
        "passes": [name for name, each in verdicts.items() if each["verdict"] == "passed"],
        "onnxruntime_does_not_run": {model.name: model.not_run for model in corpus if model.not_run},
    }
    show(evidence, verdicts)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(evidence, indent=1) + "\n", encoding="utf-8")
    if counts["wrong"] or counts["mislabelled"] or (free and counts["passed"] < SHARE * free):
        raise SystemExit(1)


def _arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", default=",".join(GROUPS), help="groups of models, with commas")
    parser.add_argument("--only", default="", help="models, with commas")
    parser.add_argument("--every", type=int, default=1, help="take every Nth model")
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/evidence/corpus.json")
    return parser.parse_args(given)


def show(evidence: dict[str, object], verdicts: dict[str, dict[str, object]]) -> None:
    """Print the counts, and every model that did not pass and is under no limit."""
    print(f"\n{evidence['models']} models, of which onnxruntime runs {evidence['onnxruntime_runs']}:")
    counted = ("passed", "failed", "wrong", "limited", "mislabelled", "share_passed_of_those_without_a_limit")
    print("  " + ", ".join(f"{evidence[name]} {name}" for name in counted))
    for name, verdict in verdicts.items():
        if verdict["verdict"] not in ("passed", "limited"):
            print(f"  {name}: {verdict['verdict']}: {verdict['reason']}")


if __name__ == "__main__":
    main()
