"""Promotions and rollbacks by hand."""

import pytest

from tests.commands import Call, tree
from tests.projects import Project


def refused(project: Project, call: Call, *arguments: str) -> str:
    before = tree(project.store)
    said = call(project, *arguments)
    assert (said.code, said.out) == (1, "")
    changed = {name for name, size in tree(project.store).items() if before.get(name) != size}
    assert changed <= {f"{arguments[1]}/promotions"}  # made to hold its lock
    return said.err


def test_an_unknown_id_is_refused_with_those_that_there_are(once: Project, call: Call) -> None:
    message = refused(once, call, "promote", "tiny", "onnxruntime/fp16")
    assert "the last run of tiny has no engine 'onnxruntime/fp16'" in message
    assert "onnxruntime/fp32, reference/fp32" in message


def test_an_engine_that_failed_is_refused_with_its_reason(once: Project, call: Call) -> None:
    message = refused(once, call, "promote", "bad", "onnxruntime/fp32")
    assert "onnxruntime/fp32 did not pass: failed: parity: top1_agreement has a bound" in message


def test_a_yardstick_is_never_promoted(once: Project, call: Call) -> None:
    assert "which is a yardstick and never promoted" in refused(once, call, "promote", "tiny", "reference/fp32")


def test_before_the_first_run_there_is_nothing_to_promote(new: Project, call: Call) -> None:
    said = call(new, "promote", "tiny", "onnxruntime/fp32")
    assert (said.code, said.out) == (1, "")
    assert "run it first" in said.err


@pytest.mark.parametrize("name", ["model.engine", "card.json"])
def test_an_engine_that_was_edited_is_refused(done: Project, call: Call, name: str) -> None:
    engine = next((done.store / done.record("tiny").outcome.engines[0].artifact).glob(name))  # type: ignore[operator]
    content = bytearray(engine.read_bytes())
    content[-3] ^= 1
    engine.write_bytes(content)
    assert f"{name} was edited" in refused(done, call, "promote", "tiny", "onnxruntime/fp32")


def test_with_nothing_promoted_there_is_nothing_to_roll_back(once: Project, call: Call) -> None:
    assert "nothing of bad is promoted" in refused(once, call, "rollback", "bad")


def test_a_rollback_is_recorded_with_its_reason_and_bars_the_key(done: Project, call: Call) -> None:
    key = done.record("tiny").outcome.promoted.key  # type: ignore[union-attr]
    record = call(done, "rollback", "tiny", "--reason", "users complain", "--json").json
    assert (record["kind"], record["reason"], record["barred"]) == ("rollback", "users complain", key)
    assert (record["id"], record["key"]) == ("", "")
    said = call(done, "run", "tiny", "--json")
    (run,) = said.json["runs"]
    assert (said.code, run["status"], run["promoted"]) == (0, "passed", None)
    assert "every engine that passed was rolled back before" in said.err
    assert "trtflow promote tiny ID" in said.err


def test_a_reason_that_no_record_can_hold_is_refused(done: Project, call: Call) -> None:
    said = call(done, "rollback", "tiny", "--reason", "bad \udcff")
    assert (said.code, said.out) == (2, "")
    assert "is not UTF-8" in said.err


def test_a_promotion_by_hand_lifts_the_bar(done: Project, call: Call) -> None:
    call(done, "rollback", "tiny")
    record = call(done, "promote", "tiny", "onnxruntime/fp32", "--json").json
    assert (record["kind"], record["by_hand"], record["id"]) == ("promotion", True, "onnxruntime/fp32")
    assert call(done, "run", "tiny", "--json").json["runs"][0]["promoted"]["id"] == "onnxruntime/fp32"


def test_people_are_told_in_one_sentence(done: Project, call: Call) -> None:
    key = done.record("tiny").outcome.promoted.key[:12]  # type: ignore[union-attr]
    said = call(done, "rollback", "tiny").out
    assert said == f"rolled back tiny: {key} is barred, nothing is in force now\n"
    assert call(done, "promote", "tiny", "onnxruntime/fp32").out == f"promoted tiny onnxruntime/fp32 ({key})\n"
