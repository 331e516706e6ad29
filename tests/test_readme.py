"""The README and the decisions keep step with the code: examples load, commands parse, numbers and links hold."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from flows.cli import _MODULES, _parser
from tasks.benchmark import ROUNDS
from tasks.core.config_fields import RESERVED
from tasks.core.outcome import RunsOutcome
from tasks.core.tolerances import PARITY, Tolerance
from tasks.core.yaml_source import load_config
from tasks.gates import DEFAULT_METRIC_DROP
from tasks.runtimes.timing import FEWEST_ROUNDS, NOISY, SAMPLES_ABOVE
from tasks.sources.collect import GOLDEN_SAMPLES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs" / "decisions").glob("*.md"))]
WORDS = re.sub(r"\s+", " ", README)


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert found, f"no {language} block"
    return found


def rows(first: str) -> list[list[str]]:
    """Cells of the table whose header begins with `first`, without the header."""
    table = re.search(rf"^\| {re.escape(first)} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", README, re.MULTILINE)
    assert table, f"no table {first!r}"
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[1].splitlines()]


@pytest.mark.parametrize("text", blocks("yaml"))
def test_yaml_examples_load(text: str, tmp_path: Path) -> None:
    path = tmp_path / "pipelines.yaml"
    path.write_text(text, encoding="utf-8")
    assert load_config(path).pipelines


def test_python_examples_define_what_the_yaml_beside_them_names() -> None:
    defined = {node.name for text in blocks("python") for node in ast.parse(text).body if hasattr(node, "name")}
    named = set(re.findall(r"mymodel:(\w+)", README))
    assert named
    assert named <= defined


def test_command_lines_parse() -> None:
    lines = [shlex.split(line) for line in re.findall(r"`(?:\w+=\S+ )?trtflow( [^`]+)`", WORDS)]
    assert lines
    for words in lines:
        _parser().parse_args(words)  # raises for what is not there


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))
    assert named
    assert named <= targets


def test_command_table_lists_every_command_and_only_real_ones() -> None:
    names = {words.split()[0] for row in rows("command") for words in re.findall(r"`([^`]+)`", row[0])}
    assert names == set(_MODULES)


def test_options_named_in_the_command_section_exist() -> None:
    section = README.partition("## Commands")[2].partition("\n## ")[0]
    known = {option for name in _MODULES for option in re.findall(r"--[a-z-]+", _help_of(name))}
    named = set(re.findall(r"--[a-z][a-z-]+", section))
    assert named
    assert named <= known


def _help_of(command: str) -> str:
    (choices,) = (action.choices for action in _parser()._actions if action.dest == "command")
    assert isinstance(choices, dict)
    return str(choices[command].format_help())


def test_tolerance_table_equals_the_code() -> None:
    told = {
        row[0]: Tolerance(rel_l2=float(row[1]), cosine=float(row[2]), slice_rel_l2=float(row[3]))
        for row in rows("precision")
    }
    assert told == dict(PARITY)


def test_json_example_is_what_run_prints() -> None:
    (text,) = blocks("json")
    assert RunsOutcome.model_validate_json(text).runs[0].engines


def test_figures_in_the_text_equal_the_code() -> None:
    assert f"in {ROUNDS} turns" in WORDS
    assert f"none below {FEWEST_ROUNDS} turns" in WORDS
    assert f"by more than {NOISY:.0%}".replace("%", " %") in WORDS
    assert f"p90 needs {10 * SAMPLES_ABOVE} samples, p99 needs {100 * SAMPLES_ABOVE}" in WORDS
    assert f"`metric_drop` ({DEFAULT_METRIC_DROP:g} by default" in WORDS
    assert f"at most {GOLDEN_SAMPLES} samples" in WORDS


def test_what_is_refused_as_not_yet_supported_is_named() -> None:
    for name in RESERVED:
        assert f"`{name}`" in README


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_decisions_are_numbered_without_gaps() -> None:
    pages = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        assert page.read_text(encoding="utf-8").startswith(f"# {int(page.name[:4])}. ")
