"""Whatever text a pipelines.yaml is: a config, or an error that says something."""

import random
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core.config import Config
from tasks.core.errors import ConfigError
from tasks.core.yaml_source import load_config
from tests.core.test_yaml_source import EXAMPLE, write

ANY_TEXT = st.one_of(st.text(), st.text(alphabet="abc01:-[]{},&*!|>'\"%@`#?~<=\n\t .ey"), st.binary())
QUICK = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(content=ANY_TEXT)
def test_any_text_is_a_config_or_a_config_error(tmp_path: Path, content: str | bytes) -> None:
    file = write(tmp_path, content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    assert_config_or_error(file)


@QUICK
@given(seed=st.integers(0, 2**32), changes=st.integers(1, 4))
def test_any_mutation_is_a_config_or_a_config_error(tmp_path: Path, seed: int, changes: int) -> None:
    chance = random.Random(seed)  # noqa: S311 -- the seed is hypothesis's own
    tokens = EXAMPLE.replace("{", " { ").replace("[", " [ ").split(" ")
    pieces = [*tokens, "~", "true", "1e-3", "-1", "{}", "[]", "\t", "\n", "&a", "*a", "<<:", ".nan", "int8", "\x07"]
    for _ in range(changes):
        tokens[chance.randrange(len(tokens))] = chance.choice(pieces)
    assert_config_or_error(write(tmp_path, " ".join(tokens)))


def assert_config_or_error(file: Path) -> None:
    result: Config | ConfigError
    try:
        result = load_config(file)
    except ConfigError as error:
        result = error
    # What is told can be printed, and says something.
    assert str(result).encode()
