"""What is in force is replayed from records, and a key that was rolled back stays out until a hand puts it in."""

import json
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.errors import PromotionError, StoreError
from tasks.core.promotions import Choice, PromotedState, Promotion, Promotions
from tests.programs import Program

PROMOTE = """
import sys
from pathlib import Path
from tasks.core.promotions import Choice, Promotions
for index in range(10):
    key = f"{sys.argv[2]}{index}"
    choice = Choice(id=key, key=key, artifact=f"digits/build/{key}", reason="test")
    Promotions(Path(sys.argv[1]), "digits").promote(choice)
"""


@pytest.fixture
def promotions(tmp_path: Path) -> Promotions:
    return Promotions(tmp_path, "digits")


def choice(key: str) -> Choice:
    return Choice(id=f"onnxruntime/{key}", key=key, artifact=f"digits/build/{key}", reason="fastest")


def in_force(promotions: Promotions) -> str | None:
    """Give the key in force, after a check that promoted.json tells the same."""
    state = promotions.state()
    derived = PromotedState.model_validate_json((promotions.root / "digits/promoted.json").read_bytes())
    assert derived == state
    return state.current.key if state.current else None


def promoted(promotions: Promotions, *keys: str) -> None:
    for key in keys:
        promotions.promote(choice(key))


def test_nothing_is_promoted_at_first(promotions: Promotions) -> None:
    assert promotions.state() == PromotedState(current=None, barred=())
    with pytest.raises(PromotionError, match="nothing of digits is promoted"):
        promotions.rollback("slow")


def test_last_promotion_is_in_force(promotions: Promotions) -> None:
    promoted(promotions, "a", "b")
    assert in_force(promotions) == "b"


def test_promoting_what_is_in_force_adds_no_record(promotions: Promotions) -> None:
    promoted(promotions, "a", "a", "a")
    assert len(promotions.records()) == 1


def test_rollback_puts_the_one_before_back_and_bars_the_one_in_force(promotions: Promotions) -> None:
    promoted(promotions, "a", "b")
    record = promotions.rollback("too slow")
    assert (record.kind, record.id, record.artifact) == ("rollback", "onnxruntime/a", "digits/build/a")
    assert (record.barred, record.reason) == ("b", "too slow")
    assert in_force(promotions) == "a"
    assert promotions.state().barred == ("b",)


def test_rollback_goes_back_step_by_step_to_nothing(promotions: Promotions) -> None:
    promoted(promotions, "a", "b", "c")
    assert [promotions.rollback("bad").key for _ in range(3)] == ["b", "a", ""]
    assert in_force(promotions) is None
    with pytest.raises(PromotionError, match="nothing of digits is promoted"):
        promotions.rollback("bad")


def test_rollback_passes_over_what_was_rolled_back_before(promotions: Promotions) -> None:
    promoted(promotions, "a", "b")
    promotions.rollback("bad")
    promoted(promotions, "c")
    assert promotions.rollback("bad").key == "a"


def test_key_in_force_twice_is_not_its_own_predecessor(promotions: Promotions) -> None:
    promoted(promotions, "a", "b", "a")
    assert promotions.rollback("bad").key == "b"
    assert promotions.rollback("bad").key == ""


def test_run_does_not_promote_a_barred_key_and_a_hand_lifts_the_bar(promotions: Promotions) -> None:
    promoted(promotions, "a", "b")
    promotions.rollback("bad")
    with pytest.raises(PromotionError, match="onnxruntime/b was rolled back") as caught:
        promoted(promotions, "b")
    assert "trtflow promote digits onnxruntime/b" in caught.value.cure
    assert promotions.promote(choice("b"), by_hand=True).by_hand
    assert in_force(promotions) == "b"
    assert promotions.state().barred == ()
    promoted(promotions, "a", "b")  # now a run may again


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff", b'{"schema_version": 2}'])
def test_damaged_record_is_a_clear_error(promotions: Promotions, content: bytes) -> None:
    promoted(promotions, "a", "b")
    path = min(promotions.folder.glob("*.json"))
    path.write_bytes(content)
    for use in (promotions.state, lambda: promoted(promotions, "c"), lambda: promotions.rollback("bad")):
        with pytest.raises(StoreError, match=path.name) as caught:
            use()
        assert "backup" in caught.value.cure


def test_what_an_unfinished_write_left_is_no_record(promotions: Promotions) -> None:
    promoted(promotions, "a")
    (promotions.folder / ".20990101T000000.000000Z-x.json.0.partial").write_text("{")
    assert in_force(promotions) == "a"


def test_next_run_mends_what_a_kill_left_between_record_and_derived_file(promotions: Promotions) -> None:
    promoted(promotions, "a")
    derived = promotions.root / "digits/promoted.json"
    before = derived.read_bytes()
    promoted(promotions, "b")
    derived.write_bytes(before)  # as a kill right behind the record would leave it
    promoted(promotions, "b")
    assert in_force(promotions) == "b"
    derived.unlink()
    promoted(promotions, "b")
    assert in_force(promotions) == "b"
    assert len(promotions.records()) == 2


def test_order_survives_a_clock_that_was_put_back(promotions: Promotions) -> None:
    promoted(promotions, "a", "b")
    newest = max(promotions.folder.glob("*.json"))
    ahead = datetime.now(UTC) + timedelta(days=3)
    newest.rename(newest.with_name(f"{ahead:%Y%m%dT%H%M%S.%fZ}-000000.json"))
    promotions.rollback("bad")
    assert in_force(promotions) == "a"
    promoted(promotions, "c", "d")
    assert in_force(promotions) == "d"
    assert [record.key for record in promotions.records()] == ["a", "b", "a", "c", "d"]


def test_file_with_a_name_of_its_own_does_not_stop_promotions(promotions: Promotions) -> None:
    promoted(promotions, "a")
    (path,) = promotions.folder.glob("*.json")
    path.rename(path.with_name("0-kept.json"))
    promoted(promotions, "b")
    assert in_force(promotions) == "b"


def test_processes_promote_one_after_the_other(promotions: Promotions) -> None:
    for program in [Program(PROMOTE, promotions.root, name) for name in "ab"]:
        program.end()
    records = promotions.records()
    assert len(records) == 20
    assert in_force(promotions) == records[-1].key
    assert not list(promotions.folder.glob(".*"))


def test_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "digits").touch()
    with pytest.raises(StoreError, match="cannot write the store"):
        Promotions(tmp_path, "digits", threading.Event()).promote(choice("a"))


ACTIONS = st.lists(st.tuples(st.sampled_from(["promote", "by hand", "rollback"]), st.sampled_from("abc")), max_size=12)


def play(promotions: Promotions, actions: Sequence[tuple[str, str]]) -> list[tuple[str | None, tuple[str, ...]]]:
    """Do them all, and give what was in force and barred after each."""
    states = []
    for action, key in actions:
        try:
            if action == "rollback":
                promotions.rollback("bad")
            else:
                promotions.promote(choice(key), by_hand=action == "by hand")
        except PromotionError:
            pass
        state = promotions.state()
        states.append((state.current.key if state.current else None, state.barred))
    return states


@settings(max_examples=40, deadline=None)
@given(ACTIONS)
def test_what_is_barred_is_never_in_force(actions: list[tuple[str, str]]) -> None:
    with TemporaryDirectory() as folder:
        promotions = Promotions(Path(folder), "digits")
        states = play(promotions, actions)
        ever = {record.key for record in promotions.records() if record.kind == "promotion"}
    before: tuple[str | None, tuple[str, ...]] = (None, ())
    for (action, key), (current, barred) in zip(actions, states, strict=True):
        assert current not in barred
        assert current is None or current in ever
        if action == "rollback" and before[0] is not None:
            assert before[0] in barred
        if action == "by hand":
            assert current == key
        if action == "promote":
            assert current == (before[0] if key in before[1] else key)
        before = current, barred


def test_records_are_plain_json(promotions: Promotions) -> None:
    promoted(promotions, "a")
    (path,) = promotions.folder.glob("*.json")
    assert Promotion.model_validate(json.loads(path.read_text())) == promotions.state().current
