"""The table of what later opsets changed is complete, and tells the truth: held against ONNX's own history."""

from collections import defaultdict
from typing import Any

import onnx
import pytest
from onnx import defs

from tasks.runtimes.opset.rules import EXPANDED, REFUSED, RULES, TYPES

OLDEST = 17


def history() -> dict[str, dict[int, Any]]:
    """Every version of every standard operator, training operators apart."""
    found: dict[str, dict[int, Any]] = defaultdict(dict)
    for schema in defs.get_all_schemas_with_history():
        if schema.domain == "":
            found[schema.name][schema.since_version] = schema
    return found


HISTORY = history()
LATER = {(name, version) for name, versions in HISTORY.items() for version in versions if version > OLDEST}


def test_every_version_after_opset_17_is_rewritten_or_refused() -> None:
    assert RULES.keys() | EXPANDED | REFUSED == LATER, f"onnx {onnx.__version__}: give each a rule, or refuse it"
    assert len(RULES) + len(EXPANDED) + len(REFUSED) == len(LATER)


def described(schema: Any) -> dict[str, Any]:  # noqa: ANN401 - a class that onnx does not annotate
    attributes = {name: (a.type, a.required, a.default_value) for name, a in schema.attributes.items()}
    sides = {"in": schema.inputs, "out": schema.outputs}
    return attributes | {side: [(formal.name, formal.option) for formal in formals] for side, formals in sides.items()}


def test_versions_said_to_differ_in_types_alone_have_the_same_attributes_inputs_and_outputs() -> None:
    for version, names in TYPES.items():
        for name in names:
            before = max(other for other in HISTORY[name] if other < version)
            assert described(HISTORY[name][version]) == described(HISTORY[name][before]), (name, version)


def test_what_is_refused_is_new_and_what_is_expanded_has_a_body() -> None:
    for name, version in REFUSED:
        assert min(HISTORY[name]) > OLDEST, name
        schema = HISTORY[name][version]
        assert not schema.has_function, name
        assert not schema.has_context_dependent_function, name
    for name, version in EXPANDED:
        schema = HISTORY[name][version]
        assert schema.has_function or schema.has_context_dependent_function, name


@pytest.mark.parametrize("name", sorted(name for name, _ in REFUSED))
def test_what_is_refused_has_no_older_version(name: str) -> None:
    assert not defs.has(name, OLDEST, "")
