"""Where a runtime lives: trtflow's own Python, or another that the YAML names because it holds another TensorRT."""

import sys
from pathlib import Path

from tasks.core.config_interpreters import InterpreterConfig
from tasks.core.config_sections import RuntimeName
from tasks.core.environment import version_said_by, versions_of
from tasks.core.frozen import Frozen
from tasks.core.installed import versions_in
from tasks.core.paths import absolute_path
from tasks.runtimes.load import BY, distributions, installed, module_of


class Interpreter(Frozen):
    """A Python, and the module that serves the runtime there; `name` is the YAML's, empty for trtflow's own."""

    runtime: RuntimeName
    module: str
    python: str = sys.executable
    name: str = ""

    def versions(self) -> dict[str, str]:
        """Versions of what an engine depends on there, for keys; read without starting the Python of an environment."""
        wanted = distributions(self.runtime, self.module)
        if self.name:
            return versions_in(self.python, wanted)
        found = versions_of(wanted)
        if found.keys() <= {BY}:  # copied into place, as from an archive
            said = version_said_by(self.module)
            return found | ({self.module: said} if said else {})
        return found

    @property
    def is_here(self) -> bool:
        """Whether the runtime is installed; of another Python, whether it is there: its worker says the rest."""
        return Path(self.python).is_file() if self.name else installed(self.runtime)


def own(runtime: RuntimeName) -> Interpreter:
    """Trtflow's own Python."""
    return Interpreter(runtime=runtime, module=module_of(runtime))


def named(runtime: RuntimeName, name: str, config: InterpreterConfig, project: Path) -> Interpreter:
    """Another Python; a relative path begins at the folder of the YAML."""
    # Not resolved: the python of an environment is a link, and is known by where that lies.
    python = str(absolute_path(config.python, project))
    return Interpreter(runtime=runtime, module=config.module or module_of(runtime), python=python, name=name)
