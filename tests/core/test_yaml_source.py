"""Reading a pipelines.yaml: every mistake is one sentence with its line and path."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tasks.core import yaml_tree
from tasks.core.config import Config, OnnxModel
from tasks.core.errors import ConfigError
from tasks.core.yaml_source import load_config, locate

# The example of the README, with everything that works today.
EXAMPLE = """\
version: 1
store: artifacts
pipelines:
  digits:
    model: {torch: "models.digits:build", checkpoint: models/digits.safetensors}
    inputs: {image: {dtype: float32, shape: [batch, 1, 8, 8]}}
    dims: {batch: {min: 1, opt: 32, max: 256}}
    data:
      calibration: {source: "models.digits:calibration", samples: 256}
      evaluation:
        source: "models.digits:evaluation"
        metric: {function: "models.digits:top1", higher_is_better: true, min: 0.95}
    precisions: [fp32, fp16, {fp16: {name: half, exclude: {nodes: ["regex"], op_types: [Add]}, optional: true}}]
    engines: [{runtime: onnxruntime}, {name: slow, runtime: reference, precisions: [fp16, half], optional: true}]
    gates: {metric_drop: 0.01, parity: {half: {cosine: 0.99}}}
    benchmark: {at: [{batch: 1}, {batch: 32}], seconds: 2}
    promote: {by: latency_p50_ms, at: {batch: 1}}
    schedule: {cron: "0 3 * * *", timezone: UTC}
    on_retrain: true
"""
TINY = "version: 1\npipelines:\n  tiny:\n    model: {onnx: model.onnx}\n"


def write(folder: Path, content: str | bytes) -> Path:
    file = folder / "pipelines.yaml"
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def error_of(folder: Path, content: str | bytes) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(write(folder, content))
    return caught.value


def loaded(folder: Path, content: str | bytes) -> Config:
    return load_config(write(folder, content))


def test_example_is_read_whole(tmp_path: Path) -> None:
    digits = loaded(tmp_path, EXAMPLE).pipelines["digits"]
    assert digits.dims["batch"].max == 256
    assert [precision.name for precision in digits.precisions or ()] == ["fp32", "fp16", "half"]
    assert [engine.name for engine in digits.engines or ()] == ["onnxruntime", "slow"]
    assert digits.benchmark.at == ({"batch": 1}, {"batch": 32})
    assert digits.schedule is not None
    assert digits.schedule.timezone == "UTC"


MISTAKES: list[tuple[str, int, str, str, str]] = [
    ("    precisons: [fp32]", 5, "pipelines.tiny.precisons", "unknown key 'precisons'", "did you mean 'precisions'?"),
    ("    zzz: 1", 5, "pipelines.tiny.zzz", "unknown key 'zzz'", "valid here: model, inputs, outputs, dims"),
    ("    fold: {with: graphsurgon}", 5, "pipelines.tiny.fold.with", "graphsurgeon, polygraphy", "mean 'graphsurgeon'"),
    ("    fold: {tool: polygraphy}", 5, "pipelines.tiny.fold.tool", "unknown key 'tool'", "valid here: with"),
    ("    promote: {by: p50}", 5, "pipelines.tiny.promote.by", "found 'p50', expected one of latency_p50_ms", "write"),
    ("    precisions: [fp32, fp17]", 5, "pipelines.tiny.precisions[1]", "fp32, fp16, bf16", "did you mean 'fp16'?"),
    ("    precisions:\n    - fp32\n    - FP16", 7, "pipelines.tiny.precisions[1]", "found 'FP16'", "mean 'fp16'"),
    ("    precisions: [{int8: {method: max}}]", 5, "pipelines.tiny.precisions[0]", "there is none", "data.calibration"),
    ("    precisions: [{int4: {}}]", 5, "pipelines.tiny.precisions[0]", "by awq", "or use method: rtn"),
    ("    precisions: [{int8: {method: maxx}}]", 5, "pipelines.tiny.precisions[0].int8.method", "'maxx'", "mean 'max'"),
    ("    precisions: [{fp16: {nmae: x}}]", 5, "pipelines.tiny.precisions[0].fp16.nmae", "'nmae'", "valid here: name"),
    ("    precisions: [{fp16: {method: max}}]", 5, "pipelines.tiny.precisions[0].fp16.method", "fp16 has no", ""),
    ("    precisions: [on]", 5, "pipelines.tiny.precisions[0]", "expected a precision", "like fp16"),
    ("    precisions: fp16", 5, "pipelines.tiny.precisions", "found the text 'fp16', expected a list", "as a list"),
    (
        "    engines: [{runtime: onnxruntime, interpreter: trt86}]",
        5,
        "pipelines.tiny.engines[0].interpreter",
        "onnxruntime runs in trtflow's own Python",
        "remove 'interpreter'",
    ),
    (
        "    engines: [{runtime: tensorrt, run_on: [lean10]}]",
        5,
        "pipelines.tiny.engines[0].run_on",
        "for an engine that other versions open",
        "version_compatible: true",
    ),
    (
        "    engines: [{runtime: tensorrt-rtx, run_on: [lean10], options: {version_compatible: true}}]",
        5,
        "pipelines.tiny.engines[0].run_on",
        "for an engine that other versions open",
        "remove 'run_on'",
    ),
    (
        "    engines:\n      - {runtime: tensorrt, run_on: [a, a], options: {version_compatible: true}}",
        6,
        "pipelines.tiny.engines[0].run_on[1]",
        "opened by 'a' already",
        "remove it",
    ),
    (
        "    engines: [{runtime: tensorrt, interpreter: trt68}]\ninterpreters: {trt86: {python: x}}",
        5,
        "pipelines.tiny.engines[0].interpreter",
        "'trt68' names no interpreter",
        "did you mean 'trt86'?",
    ),
    (
        "    engines: [{runtime: tensorrt, interpreter: lean}]\n"
        "interpreters: {lean: {python: x, module: tensorrt_lean}}",
        5,
        "pipelines.tiny.engines[0].interpreter",
        "'lean' holds tensorrt_lean, which builds no engine",
        "'run_on'",
    ),
    (
        "    engines: [{runtime: tensorrt-rtx, interpreter: full}]\n"
        "interpreters: {full: {python: x, module: tensorrt}}",
        5,
        "pipelines.tiny.engines[0].interpreter",
        "'full' holds tensorrt, and the engine is one of tensorrt-rtx",
        "module: tensorrt_rtx",
    ),
    (
        "interpreters: {lean: {python: x, module: tensorrt_slim}}",
        5,
        "interpreters.lean.module",
        "tensorrt_slim",
        "tensorrt_lean",
    ),
    ("    engines: [{runtime: onnxruntim}]", 5, "pipelines.tiny.engines[0].runtime", "'onnxruntim'", "'onnxruntime'?"),
    ("    engines: [{}]", 5, "pipelines.tiny.engines[0]", "the key 'runtime' is missing", "add 'runtime'"),
    ("    engines: [onnxruntime]", 5, "pipelines.tiny.engines[0]", "expected a mapping", "keys here: runtime"),
    ("    engines: []", 5, "pipelines.tiny.engines", "found no entry, expected at least one", "add one"),
    ("    benchmark: {seconds: true}", 5, "pipelines.tiny.benchmark.seconds", "found 'true'", "write a number"),
    ("    benchmark: {seconds: '2'}", 5, "pipelines.tiny.benchmark.seconds", "the text '2'", "without quotes"),
    ("    benchmark: {seconds: 0}", 5, "pipelines.tiny.benchmark.seconds", "expected more than 0", "correct"),
    ("    benchmark: {seconds: .inf}", 5, "pipelines.tiny.benchmark.seconds", "expected a finite number", "write"),
    ("    benchmark: {seconds: 1:30}", 5, "pipelines.tiny.benchmark.seconds", "found the text '1:30'", "a number"),
    ("    benchmark: {baselines: 1}", 5, "pipelines.tiny.benchmark.baselines", "expected true or false", "write"),
    ("    benchmark: {at: [{n: yes}]}", 5, "pipelines.tiny.benchmark.at[0].n", "'yes', which YAML reads as true", ""),
    ("    benchmark: {at: [{n: 1.0}]}", 5, "pipelines.tiny.benchmark.at[0].n", "expected a whole number", ""),
    ("    export: {opset: 17}", 5, "pipelines.tiny.export.opset", "found the number 17, expected at least 18", ""),
    ("    data:\n      evaluation: {}", 6, "pipelines.tiny.data.evaluation", "the key 'source' is missing", ""),
    ("    data:", 5, "pipelines.tiny.data", "found nothing, expected a mapping", "valid keys here: calibration"),
    ("    outputs: [no]", 5, "pipelines.tiny.outputs[0]", "'no', which YAML reads as false", 'quotes: "no"'),
    ("    outputs: [1e3]", 5, "pipelines.tiny.outputs[0]", "found the number 1e3", 'put it in quotes: "1e3"'),
    ("    inputs: {x: {dtype: float32, shape: [true]}}", 5, "pipelines.tiny.inputs.x.shape[0]", "text or a whole", ""),
    (
        "    inputs: {x: {dtype: f32, shape: [1]}}",
        5,
        "pipelines.tiny.inputs.x.dtype",
        "float32, float16",
        "mean 'float32'?",
    ),
    ("    inputs: {x: {dtype: int8, shape: [1], range: [1]}}", 5, "pipelines.tiny.inputs.x.range", "found 1 items", ""),
    (
        "    inputs: {x: {dtype: int8, shape: [1], range: [1, 2, 3]}}",
        5,
        "pipelines.tiny.inputs.x.range",
        "at most 2",
        "",
    ),
    ("    gates:\n      parity:\n        fp61: {cosine: 1}", 7, "pipelines.tiny.gates.parity.fp61", "'fp61'", "'fp16'"),
    ("    dims:\n      n: {min: 2, opt: 1, max: 3}", 6, "pipelines.tiny.dims.n", "min <= opt <= max", "in order"),
    ("    on: true", 5, "pipelines.tiny.on", "YAML reads the key 'on' as a truth value", 'in quotes: "on"'),
    ("    8: true", 5, "pipelines.tiny.8", "YAML reads the key '8' as a number", 'in quotes: "8"'),
    ("    ~: true", 5, "pipelines.tiny.~", "YAML reads the key '~' as nothing", "in quotes"),
    ("    ? [a, b]\n    : 1", 5, "pipelines.tiny", "a key is a mapping or a list", "write NAME: value"),
    ("    fold: !!python/name:os.system x", 5, "pipelines.tiny.fold", "the tag !!python/name:os.system", "remove"),
    ("    fold: !mine {with: polygraphy}", 5, "pipelines.tiny.fold", "the tag !mine is not taken", "remove the tag"),
    ("    <<: 3", 5, "pipelines.tiny", "'<<' merges something that is no mapping", "write <<: *name"),
    ("  no: {model: {onnx: x}}", 5, "pipelines.no", "YAML reads the key 'no' as a truth value", 'in quotes: "no"'),
    ("  a b: {model: {onnx: x}}", 5, "pipelines.a b", "'a b' cannot be a name", "letters, digits"),
    ("  other: {model: {onxn: x}}", 5, "pipelines.other.model", "found 'onxn', expected exactly one", "{onnx: FILE}"),
    ("  other: {model: x.onnx}", 5, "pipelines.other.model", "found 'x.onnx', expected exactly one", "{onnx: FILE}"),
    ("  other: {model: {onnx: x, checkpoint: y}}", 5, "pipelines.other.model.checkpoint", "unknown key", "onnx, files"),
    ("  other: {model: {torch: 'm:f'}}", 5, "pipelines.other", "a torch model needs 'inputs'", "add inputs"),
    ("  other:", 5, "pipelines.other", "found nothing, expected a mapping", "valid keys here: model"),
    (
        "stor: x",
        5,
        "stor",
        "unknown key 'stor'",
        "did you mean 'store'? valid here: version, store,",
    ),
    ("store: 3", 5, "store", "found the number 3, expected text", 'put it in quotes: "3"'),
    ("version: 1", 5, "version", "the key 'version' is already on line 1", "remove one of them"),
    ("    model: {onnx: x}", 5, "pipelines.tiny.model", "the key 'model' is already on line 4", "remove one"),
]


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistake_is_told_with_line_path_and_cure(tmp_path: Path, mistake: tuple[str, int, str, str, str]) -> None:
    added, line, path, message, cure = mistake
    error = error_of(tmp_path, f"{TINY}{added}\n")
    assert (error.where.file, error.where.line, error.where.path) == (str(tmp_path / "pipelines.yaml"), line, path)
    assert message in error.message
    assert cure in error.cure
    assert error.cure


@pytest.mark.parametrize("key", ["profiles", "pool", "timeout"])
def test_later_keys_are_known_in_a_pipeline_and_at_the_top(tmp_path: Path, key: str) -> None:
    for added, path in ((f"    {key}: 1", f"pipelines.tiny.{key}"), (f"{key}: 1", key)):
        error = error_of(tmp_path, f"{TINY}{added}\n")
        assert (error.message, error.where.path) == (f"the key {key!r} is known, not yet supported", path)


DOCUMENTS: list[tuple[str | bytes, int | None, str, str]] = [
    ("", None, "the file is empty", "version: 1"),
    ("# only a comment\n", None, "the file is empty", "version: 1"),
    ("null\n", 1, "expected a mapping", "version: 1"),
    ("- version: 1\n", 1, "the document is a list, expected a mapping", "version: 1"),
    ("hello\n", 1, "the document is a single value, expected a mapping", "version: 1"),
    ("store: x\npipelines: {a: {model: {onnx: x}}}\n", 1, "the key 'version' is missing", "version: 1"),
    ("version: 1\n", 1, "the key 'pipelines' is missing", "add 'pipelines'"),
    ("version: 1\npipelines: {}\n", 2, "found no entry, expected at least one", "add one"),
    ("version: '1'\npipelines: {a: {model: {onnx: x}}}\n", 1, "found '1', expected the number 1", "version: 1"),
    ("version: yes\npipelines: {a: {model: {onnx: x}}}\n", 1, "found True, expected the number 1", "version: 1"),
    ("version: 1\n---\nversion: 1\n", 2, "expected a single document", "check"),
    ("version: 1\npipelines:\n\ttiny: {}\n", 3, "this is not YAML", "replace the tabs"),
    ("version: 1\npipelines: [a\n", 3, "this is not YAML", "brackets"),
    ("version: 1\na: *nowhere\n", 2, "undefined alias", "check"),
    (b"version: 1\nstore: \xff\xfe\n", 2, "this is not UTF-8: byte 0xff", "save the file as UTF-8"),
    (TINY.encode("utf-16"), 1, "this is not UTF-8", "save the file as UTF-8"),
    ("version: 1\nstore: a\x07b\n", 2, "the character U+0007 is not allowed", "remove it"),
    ("[" * 100_000, 1, "nested deeper than 40 levels", "alias"),
    ("version: 1\nstore: &a [*a]\n", 2, "nested deeper than 40 levels", "alias"),
]


@pytest.mark.parametrize(("content", "line", "message", "cure"), DOCUMENTS)
def test_unusable_document_is_told(
    tmp_path: Path, content: str | bytes, line: int | None, message: str, cure: str
) -> None:
    error = error_of(tmp_path, content)
    assert error.where.line == line
    assert message in error.message
    assert cure in error.cure


def test_missing_file_is_named_and_the_cure_is_the_option(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file") as caught:
        load_config(tmp_path / "nothing.yaml")
    assert str(tmp_path / "nothing.yaml") in caught.value.message
    assert "-f" in caught.value.cure


def test_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path)


def test_of_hundreds_of_mistakes_the_first_are_told(tmp_path: Path) -> None:
    wrong = "".join(f"  p{number}: {{model: {{onnx: a.onnx}}, nothing: 1}}\n" for number in range(300))
    error = error_of(tmp_path, f"version: 1\npipelines:\n{wrong}")
    assert "and 299 more:" in error.message
    assert error.message.endswith("... and 279 after these")
    assert len(error.message.splitlines()) == 23


def test_a_key_that_is_no_line_of_text_is_told_as_one(tmp_path: Path) -> None:
    error = error_of(tmp_path, f'{TINY}    ? {"x" * 20000}\n    : 1\n"a\\nb": 1\n')
    assert len(str(error)) < 2000
    assert "line 7 'a\\nb': unknown key" in error.message


def test_of_a_very_long_value_both_ends_are_told(tmp_path: Path) -> None:
    dims = f"{TINY}    inputs: {{x: {{dtype: float32, shape: [{'x' * 20000}]}}}}\n"
    error = error_of(tmp_path, dims)
    assert "xxx ... xxx" in str(error)
    assert len(str(error)) < 3000


def test_all_mistakes_are_told_in_the_order_of_the_file(tmp_path: Path) -> None:
    error = error_of(tmp_path, f"{TINY}    promote: {{by: p50}}\n    keep: 3\nstor: x\n  \n")
    assert (error.where.line, error.where.path) == (5, "pipelines.tiny.promote.by")
    assert "and 2 more" in error.message
    assert "line 6 pipelines.tiny.keep: the key 'keep' is known, not yet supported" in error.message
    assert "line 7 stor: unknown key 'stor'; did you mean 'store'?" in error.message
    assert str(error).startswith(f"{tmp_path / 'pipelines.yaml'}:5 pipelines.tiny.promote.by: ")


def test_duplicates_below_one_another_are_all_told(tmp_path: Path) -> None:
    error = error_of(tmp_path, f"{TINY}    keep: 1\n    keep: 2\n    yes: 1\n")
    assert error.where.line == 6
    assert "line 7 pipelines.tiny.yes" in error.message


def test_mistake_below_an_alias_is_told_where_it_is_written(tmp_path: Path) -> None:
    text = f"{TINY}    benchmark: &quick\n      seconds: 0\n  other:\n    model: {{onnx: x}}\n    benchmark: *quick\n"
    error = error_of(tmp_path, text)
    assert (error.where.line, error.where.path) == (6, "pipelines.tiny.benchmark.seconds")
    assert "line 6 pipelines.other.benchmark.seconds" in error.message


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("1e-3", 0.001), ("2E+1", 20.0), ("1e1", 10.0), (".5", 0.5), ("1_0", 10.0), ("2", 2.0), ("+.5e1", 5.0)],
)
def test_number_may_be_written_in_any_way(tmp_path: Path, written: str, seconds: float) -> None:
    config = loaded(tmp_path, f"{TINY}    benchmark: {{seconds: {written}}}\n")
    assert config.pipelines["tiny"].benchmark.seconds == seconds


def test_date_and_quoted_number_are_text(tmp_path: Path) -> None:
    text = "version: 1\nstore: 2026-01-01\npipelines: {2026-01-01: {model: {onnx: '1e3', files: ['on', '8']}}}\n"
    config = loaded(tmp_path, text)
    assert config.store == "2026-01-01"
    assert config.pipelines["2026-01-01"].model == OnnxModel(onnx="1e3", files=("on", "8"))


def test_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert list(loaded(tmp_path, b"\xef\xbb\xbf" + TINY.encode()).pipelines) == ["tiny"]


def test_merge_keys_give_what_is_not_written(tmp_path: Path) -> None:
    text = (
        f"{TINY}    export: &none {{}}\n    benchmark: &slow {{seconds: 9, baselines: false}}\n"
        "  one: {model: {onnx: x}, benchmark: {<<: *slow, seconds: 3}}\n"
        "  two: {model: {onnx: x}, benchmark: {seconds: 4, <<: [*none, *slow]}}\n"
        "  three: {model: {onnx: x}, benchmark: {<<: [{seconds: 1}, *slow]}}\n"
    )
    pipelines = loaded(tmp_path, text).pipelines
    benchmarks = [pipelines[name].benchmark for name in ("one", "two", "three")]
    assert [each.seconds for each in benchmarks] == [3, 4, 1]
    assert not any(each.baselines for each in benchmarks)


def test_bomb_of_aliases_is_harmless(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 30)]
    assert "more than 100000 values" in error_of(tmp_path, "\n".join(lines)).message


def test_half_a_character_is_told_without_libyaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(yaml_tree, "_LOADER", yaml.SafeLoader)
    assert loaded(tmp_path, EXAMPLE).version == 1
    assert "\\ud800 is half a character" in error_of(tmp_path, f'{TINY}    outputs: ["a\\ud800"]\n').message
    assert "this is not YAML" in error_of(tmp_path, 'version: "\\U00110000"\n').message
    assert "nested deeper" in error_of(tmp_path, "[" * 5000).message


def test_locate_finds_lines_and_leaves_out_what_is_not_written(tmp_path: Path) -> None:
    file = write(tmp_path, EXAMPLE)
    where = locate(file, ("pipelines", "digits", "data", "evaluation", "metric", "function"))
    assert (where.line, where.path) == (12, "pipelines.digits.data.evaluation.metric.function")
    assert locate(file, ("pipelines", "digits", "precisions", 2, "name")).path.endswith("precisions[2].fp16.name")
    default = locate(file, ("pipelines", "digits", "export", "opset"))
    assert (default.line, default.path) == (4, "pipelines.digits")


def test_locate_of_a_file_that_is_gone_has_no_line(tmp_path: Path) -> None:
    assert locate(tmp_path / "gone.yaml", ("pipelines", "a")).line is None


def test_loading_imports_nothing_heavy(tmp_path: Path) -> None:
    file = write(tmp_path, EXAMPLE)
    heavy = {"numpy", "torch", "onnx", "onnxruntime", "onnx_graphsurgeon", "polygraphy", "modelopt", "prefect", "rich"}
    code = (
        "import sys, pathlib; from tasks.core.yaml_source import load_config; "
        f"load_config(pathlib.Path({str(file)!r})); print(sorted({heavy!r} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
