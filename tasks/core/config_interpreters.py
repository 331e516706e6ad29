"""Interpreters of a pipelines.yaml, the Pythons that hold one TensorRT each, and which engines may name which."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from tasks.core.config_fields import PathText, Problem, Section, suggest

if TYPE_CHECKING:
    from tasks.core.config_sections import EngineConfig

Module: TypeAlias = Literal["tensorrt", "tensorrt_lean", "tensorrt_dispatch", "tensorrt_rtx"]
# What imports as these builds no engine.
_RUN_ONLY = ("tensorrt_lean", "tensorrt_dispatch")


class InterpreterConfig(Section):
    """A Python with one TensorRT: `module` is what is imported there, by default what serves the engine's runtime."""

    python: PathText
    module: Module | None = None


Interpreters: TypeAlias = Mapping[str, InterpreterConfig]


def _own_problems(engine: "EngineConfig") -> Iterator[Problem]:
    """What an engine says of interpreters, whichever are declared."""
    named = engine.interpreter is not None
    if (named or engine.run_on) and not engine.runtime.startswith("tensorrt"):
        key = "interpreter" if named else "run_on"
        yield Problem(f"{engine.runtime} runs in trtflow's own Python", f"remove {key!r}", (key,))
    elif engine.run_on and not (engine.runtime == "tensorrt" and engine.options.version_compatible):
        cure = "add options: {version_compatible: true}" if engine.runtime == "tensorrt" else "remove 'run_on'"
        yield Problem("'run_on' is for an engine that other versions open", cure, ("run_on",))
    for place, name in enumerate(engine.run_on):
        if name in engine.run_on[:place] or name == engine.interpreter:
            yield Problem(f"the engine is opened by {name!r} already", "remove it", ("run_on", place))


def interpreter_problems(interpreters: Interpreters, engines: "tuple[EngineConfig, ...]") -> Iterator[Problem]:
    """Every interpreter that an engine names is declared, and holds a TensorRT that can do what it is named for."""
    for index, engine in enumerate(engines):
        own = [problem._replace(path=("engines", index, *problem.path)) for problem in _own_problems(engine)]
        if own:
            yield from own
            continue
        uses = [(("interpreter",), engine.interpreter)] if engine.interpreter is not None else []
        for path, name in [*uses, *((("run_on", place), name) for place, name in enumerate(engine.run_on))]:
            yield from _use_problems(interpreters, engine, ("engines", index, *path), name)


def _use_problems(
    interpreters: Interpreters, engine: "EngineConfig", path: tuple[str | int, ...], name: str
) -> Iterator[Problem]:
    if name not in interpreters:
        cure = suggest(name, interpreters) or f"add interpreters: {{{name}: {{python: .venvs/{name}/bin/python}}}}"
        yield Problem(f"{name!r} names no interpreter", cure, path)
        return
    module = interpreters[name].module
    own = "tensorrt_rtx" if engine.runtime == "tensorrt-rtx" else "tensorrt"
    if "run_on" not in path and module in _RUN_ONLY:
        cure = "name one that holds the whole of TensorRT here, and this one in 'run_on'"
        yield Problem(f"{name!r} holds {module}, which builds no engine", cure, path)
    elif module not in (None, own, *_RUN_ONLY):
        cure = f"name an interpreter with module: {own}"
        yield Problem(f"{name!r} holds {module}, and the engine is one of {engine.runtime}", cure, path)
