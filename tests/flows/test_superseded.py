"""Of several announced checkpoints the newest is converted, and none twice."""

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import get_args
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import FlowRun

from flows.superseded import Announced, Standing, Verdict, announced, decide, outdone

NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
STANDINGS: tuple[Standing, ...] = get_args(Standing)


def run(minute: int | None, standing: Standing = "waiting", name: str = "", **more: object) -> Announced:
    """A run whose event occurred at a minute after noon; what has begun began then too, unless told."""
    occurred = None if minute is None else NOON + timedelta(minutes=minute)
    started = None if standing == "waiting" else occurred
    made = Announced(name or f"{minute}{standing}", f"net · {name or minute}", standing, occurred, started=started)
    return replace(made, **more)  # type: ignore[arg-type]


ME = run(5, "running", "me")


def by(verdict: Verdict | None) -> tuple[str, str] | None:
    return (verdict.kind, verdict.by.id) if verdict else None


@pytest.mark.parametrize("standing", STANDINGS)
@pytest.mark.parametrize("minute", [None, 1, 9])
def test_only_a_newer_one_that_waits_works_or_worked_supersedes(standing: Standing, minute: int | None) -> None:
    other = run(minute, standing, "other")
    supersedes = minute == 9 and standing in ("waiting", "running", "done", "spared")
    assert by(decide(ME, [other])) == (("superseded", "other") if supersedes else None)


def test_the_verdict_names_the_newest_of_all() -> None:
    others = [run(6, "done", "six"), run(8, "waiting", "eight"), run(9, "failed", "nine"), run(7, "running", "seven")]
    for order in itertools.permutations(others):
        assert by(decide(ME, order)) == ("superseded", "eight")
    verdict = decide(ME, others)
    assert verdict
    assert verdict.message == "superseded by net · eight (eight)"


def test_a_run_that_no_event_started_neither_gives_way_nor_takes_it() -> None:
    assert decide(run(None, "running", "me"), [run(9)]) is None
    assert decide(ME, [run(None, standing) for standing in STANDINGS]) is None


def test_of_two_of_the_same_moment_the_later_event_id_wins() -> None:
    a, b = run(5, "running", "a", event="1"), run(5, "waiting", "b", event="2")
    assert by(decide(a, [b])) == ("superseded", "b")
    assert decide(replace(b, standing="running"), [replace(a, standing="waiting")]) is None
    a, b = replace(a, event=""), replace(b, event="")  # as some other sender may leave it: the runs' own ids
    assert by(decide(a, [b])) == ("superseded", "b")


def test_a_run_does_not_supersede_itself() -> None:
    assert decide(ME, [ME, replace(ME, standing="waiting")]) is None


def test_exactly_one_of_any_burst_is_left() -> None:
    burst = [run(minute, "waiting", str(index)) for index, minute in enumerate([3, 1, 4, 1, 5])]
    for order in itertools.permutations(burst):
        waiting = {each.id: each for each in order}
        worked = []
        for each in order:
            if decide(replace(each, standing="running"), waiting.values()):
                waiting[each.id] = replace(each, standing="cancelled")
            else:
                worked.append(each.id)
                waiting[each.id] = replace(each, standing="done", started=NOON)
        assert worked == ["4"]


def test_a_burst_while_one_works_leaves_that_one_and_the_newest() -> None:
    first = run(1, "running", "first")
    burst = [run(2, "waiting", "two"), run(4, "waiting", "four"), run(3, "waiting", "three")]
    others = [replace(first, standing="done"), *burst]
    ended = {each.id: by(decide(replace(each, standing="running"), others)) for each in burst}
    assert ended == {"two": ("superseded", "four"), "three": ("superseded", "four"), "four": None}


@pytest.mark.parametrize("standing", STANDINGS)
def test_what_was_converted_last_is_not_converted_again(standing: Standing) -> None:
    """One that works may be dead already, one that failed did not convert it: the store has what they finished."""
    other = run(1, standing, "other", digest="a", started=NOON)
    expected = ("converted", "other") if standing == "done" else None
    assert by(decide(replace(ME, digest="a"), [other])) == expected
    assert decide(replace(ME, digest="b"), [other]) is None
    assert decide(ME, [other]) is None


def test_what_was_converted_before_something_else_is_converted_again() -> None:
    """Else what is promoted would be of the checkpoint between."""
    first = run(1, "done", "first", digest="a")
    me = replace(ME, digest="a")
    between = run(2, "done", "between", digest="b")
    assert decide(me, [first, between]) is None
    assert decide(me, [first, run(None, "done", "nightly", started=NOON + timedelta(minutes=2))]) is None
    assert decide(me, [first, replace(between, standing="failed")]) is None
    for standing in ("cancelled", "spared"):
        assert by(decide(me, [first, replace(between, standing=standing)])) == ("converted", "first")


def test_a_checkpoint_that_a_person_converted_is_converted_for_the_event_too() -> None:
    manual = run(None, "done", "manual", digest="a", started=NOON)
    assert decide(replace(ME, digest="a"), [manual]) is None


def test_a_newer_event_of_the_same_checkpoint_supersedes() -> None:
    me = replace(ME, digest="a")
    assert by(decide(me, [run(9, "waiting", "new", digest="a"), run(1, "done", digest="a")])) == ("superseded", "new")


def test_what_is_told_of_a_checkpoint_that_was_converted() -> None:
    verdict = decide(replace(ME, digest="a"), [run(1, "done", "other", digest="a")])
    assert verdict
    assert verdict.message == "this checkpoint was converted by net · other (other)"


def test_only_what_waits_and_is_older_is_outdone() -> None:
    others = [run(minute, standing, f"{minute}{standing}") for minute in (None, 1, 9) for standing in STANDINGS]
    assert [each.id for each in outdone(ME, [ME, *others])] == ["1waiting"]
    assert outdone(run(None, "running"), others) == []


def test_a_time_ahead_of_the_server_counts_as_when_it_was_heard_of() -> None:
    given = {"occurred": "2099-01-01T00:00:00+00:00"}
    fields = {"flow_id": uuid4(), "parameters": given, "created": NOON, "name": "net · 1 · retrained"}
    ahead = FlowRun.model_validate(fields)
    assert announced(ahead, ahead.name).occurred == NOON
    behind = ahead.model_copy(update={"parameters": {"occurred": "2001-01-01T00:00:00+00:00"}})
    assert announced(behind, behind.name).occurred == datetime(2001, 1, 1, tzinfo=UTC)
