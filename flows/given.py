"""What the command line names: pipelines of the YAML, or ONNX files and folders that are pipelines by themselves."""

import re
from pathlib import Path

from flows.options import DEFAULT_FILE, Options
from tasks.core.config import Config, PipelineConfig
from tasks.core.errors import ConfigError, Where
from tasks.core.onnx_path import candidates, what_is_wrong
from tasks.core.yaml_source import load_config

_LONGEST_NAME = 64


def load_given(names: list[str], options: Options) -> tuple[Config, list[str]]:
    """Read the YAML and add a pipeline for each path; returns it with the pipelines' names.

    A pipeline's name wins over a path that reads the same. Where all are paths, there need not be a YAML.
    """
    paths = [name for name in names if _is_path(name)]
    if not paths:
        return _load(names, options), names
    config = None if _does_without(options) else load_config(options.file)
    known = dict(config.pipelines) if config else {}
    added: dict[str, PipelineConfig] = {}
    called = [name if name in known or name not in paths else _add(name, known, added) for name in names]
    pipelines = {**known, **added}
    if config is not None:
        return config.model_copy(update={"pipelines": pipelines}), called
    for name in called:
        if name not in added:
            raise _neither(name, options)
    return Config(version=1, pipelines=pipelines), called


def _load(names: list[str], options: Options) -> Config:
    if names and _does_without(options):
        raise _neither(names[0], options)
    return load_config(options.file)


def _does_without(options: Options) -> bool:
    """Whether there is no YAML, and none was asked for."""
    return options.file == Path(DEFAULT_FILE).absolute() and not options.file.exists()


def _neither(name: str, options: Options) -> ConfigError:
    return ConfigError(
        f"there is no file {options.file}, and {name!r} is no ONNX file or folder either",
        "pass the path of your pipelines.yaml with -f, or that of an ONNX file",
    )


def _is_path(name: str) -> bool:
    return name.endswith(".onnx") or "/" in name or Path(name).is_dir()


def _add(text: str, known: dict[str, PipelineConfig], added: dict[str, PipelineConfig]) -> str:
    """Make the smallest pipeline of a path, called after it."""
    path = Path(text).absolute()
    if not path.exists():
        raise ConfigError(f"{text!r} is no pipeline, and there is no such file or folder", "correct the path or name")
    found = candidates(path) if path.is_dir() else [path.name]
    if len(found) != 1:
        message, cure = what_is_wrong(text, found)
        raise ConfigError(message, cure, Where(str(path)))
    name = _name_of(path)
    if name in known or name in added:
        raise ConfigError(
            f"the pipeline of {text!r} would be called {name!r}, and there is one of that name already",
            f"rename the {'folder' if path.is_dir() else 'file'}, or give it a pipeline of its own in the YAML",
        )
    added[name] = PipelineConfig.model_validate({"model": {"onnx": str(path)}})
    return name


def _name_of(path: Path) -> str:
    stem = path.resolve().name if path.is_dir() else path.stem
    plain = re.sub(r"[^A-Za-z0-9._-]+|\.{2,}", "-", stem).lstrip("._-")[:_LONGEST_NAME]
    return plain or "model"
