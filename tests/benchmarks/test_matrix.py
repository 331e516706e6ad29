"""What the precision matrix refuses to record as passed."""

import pytest

from benchmarks.matrix import Cell, Row, problems

COST = {"rel_l2": 1e-4, "cosine": 1.0, "max_abs_error": 1e-4}


def row(**changes: object) -> Row:
    cell: Cell = {
        "status": "passed",
        "reason": "",
        "metric": 1.0,
        "vs_source": COST,
        "precision_cost": COST,
        "runtime_cost": COST,
        "runtime_cost_bound_rel_l2": 2e-2,
        "qdq_nodes": 2,
        "typed_graph_bytes": 1,
        "engine_bytes": 1,
    }
    cell.update(changes)  # type: ignore[typeddict-item]
    return {"status": "passed", "seconds": 1.0, "source_metric": 1.0, "cells": {"int8": cell}}


def test_a_cell_that_holds_has_no_problem() -> None:
    assert problems("cnn", row()) == []


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"qdq_nodes": 0}, "cnn/int8 passed, but its graph holds no Q/DQ node"),
        ({"qdq_nodes": None}, "cnn/int8 passed, but its graph holds no Q/DQ node"),
        ({"runtime_cost": {**COST, "rel_l2": 0.5}}, "cnn/int8 passed, but its runtime_cost is 0.5, above 0.02"),
        (
            {"runtime_cost": {**COST, "rel_l2": float("nan")}},
            "cnn/int8 passed, but its runtime_cost is nan, above 0.02",
        ),
        ({"runtime_cost": None}, "cnn/int8 passed, but its runtime_cost is None, above 0.02"),
    ],
)
def test_a_passed_cell_that_does_not_hold_is_named(changes: dict[str, object], problem: str) -> None:
    assert problems("cnn", row(**changes)) == [problem]


def test_a_refused_cell_need_not_hold() -> None:
    assert problems("lstm", row(status="refused", qdq_nodes=None, runtime_cost=None)) == []
