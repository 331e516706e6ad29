"""The sections of a pipelines.yaml that say when and how it is operated: schedules, what is kept, who is told."""

import re
from typing import Literal, TypeAlias
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator

from tasks.core.config_fields import Problem, Section, nearest, refusal

CRON_FIELDS = 5
_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_DAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
# Name of each field of cron, its least and its greatest number, and the names that may stand for numbers.
_FIELDS: tuple[tuple[str, int, int, list[str]], ...] = (
    ("minute", 0, 59, []),
    ("hour", 0, 23, []),
    ("day", 1, 31, []),
    ("month", 1, 12, _MONTHS),
    ("weekday", 0, 7, _DAYS),
)
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_PART = re.compile(r"(?P<first>\*|\w+)(?:-(?P<last>\w+))?(?:/(?P<step>\d+))?", re.ASCII)
_SIZE = re.compile(r"(?P<number>\d+(\.\d+)?)\s*(?P<prefix>[KkMmGgTt]?)(?P<binary>i?)[Bb]")
_VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")

Ending: TypeAlias = Literal["failed", "crashed"]


class ScheduleConfig(Section):
    """When to run by itself: five fields of cron, and the time zone they are read in."""

    cron: str
    timezone: str = "UTC"

    @field_validator("cron")
    @classmethod
    def _five_fields(cls, value: str) -> str:
        fields = value.split()
        if len(fields) != CRON_FIELDS:
            cure = 'write minute, hour, day, month and weekday, like "0 3 * * *"'
            raise refusal([Problem(f"{value!r} has {len(fields)} fields, expected {CRON_FIELDS}", cure)])
        problems = [_cron_problem(text, *field) for text, field in zip(fields, _FIELDS, strict=True)]
        if any(problems):
            raise refusal([problem for problem in problems if problem])
        _, _, days, months, _ = (_meant(text, *field[1:]) for text, field in zip(fields, _FIELDS, strict=True))
        if fields[4] == "*" and min(days) > max(_LONGEST[month - 1] for month in months):
            raise refusal([Problem(f"{value!r:.60} is never: no such month has a day {min(days)}", "correct the day")])
        return value

    @field_validator("timezone")
    @classmethod
    def _real_zone(cls, value: str) -> str:
        if value != "UTC" and not _is_zone(value):
            from zoneinfo import available_timezones

            near = nearest(value, sorted(available_timezones()))
            raise refusal([Problem(f"there is no time zone {value!r}", f"{near}write it like Europe/Paris or UTC")])
        return value


class KeepConfig(Section):
    """What `gc` keeps of each pipeline, and when `trtflow up` removes the rest."""

    runs: int = Field(default=10, ge=1)
    days: float | None = Field(default=None, gt=0, le=36500)
    size: str | None = None
    schedule: ScheduleConfig = Field(default_factory=lambda: ScheduleConfig(cron="0 4 * * *"))

    @field_validator("size")
    @classmethod
    def _a_size(cls, value: str | None) -> str | None:
        if value is not None and size_bytes(value) is None:
            raise refusal([Problem(f"{value!r:.60} is no size", "write it as 20GB, 1.5TB or 512MiB")])
        return value

    @property
    def max_bytes(self) -> int | None:
        """`size` in bytes."""
        return size_bytes(self.size) if self.size is not None else None


class NotifyConfig(Section):
    """Who is told how a run ended: a webhook, as a URL or as `$NAME` of the environment, which keeps it secret."""

    webhook: str
    # Not `on`: YAML reads that as true.
    when: tuple[Ending, ...] = Field(default=("failed", "crashed"), min_length=1)

    @field_validator("webhook")
    @classmethod
    def _an_address(cls, value: str) -> str:
        if not (re.match(r"https?://[^\s/]", value) or _VARIABLE.fullmatch(value)):
            cure = "write https://..., or $NAME for the variable of the environment that holds it"
            raise refusal([Problem(f"{value!r:.60} is no address of a webhook", cure)])
        return value

    @property
    def variable(self) -> str | None:
        """Name of the variable that holds the address, if one does."""
        found = _VARIABLE.fullmatch(self.webhook)
        return found[1] if found else None


def size_bytes(text: str) -> int | None:
    """Read a size as people write it: 20GB, 1.5TB, 512MiB."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        return None
    base = 1024 if found["binary"] else 1000
    return int(float(found["number"]) * base ** " KMGT".index(found["prefix"].upper() or " "))


def _cron_problem(text: str, name: str, least: int, greatest: int, words: list[str]) -> Problem | None:
    """What is wrong with one field of cron; lists, ranges and steps are what every cron takes."""
    for part in text.lower().split(","):
        found = _PART.fullmatch(part)
        ends = [] if found is None else [end for end in (found["first"], found["last"]) if end not in (None, "*")]
        numbers = [_cron_number(end, least, words) for end in ends]
        bad = found is None or (found["first"] == "*" and found["last"]) or found["step"] == "0"
        if bad or any(number is None or not least <= number <= greatest for number in numbers):
            named = f", or {words[0]} to {words[-1]}" if words else ""
            cure = f"write *, a number, 1-5, */2 or a list of these; the {name} is {least} to {greatest}{named}"
            return Problem(f"{text!r:.60} is no {name}", cure)
        if len(numbers) > 1 and (numbers[0] or 0) > (numbers[1] or 0):
            return Problem(
                f"{part!r} ends before it begins", f"write two ranges: {numbers[0]}-{greatest},{least}-{numbers[1]}"
            )
    return None


def _meant(text: str, least: int, greatest: int, words: list[str]) -> set[int]:
    """The numbers that a field of cron stands for, once nothing is wrong with it."""
    meant: set[int] = set()
    for part in _PART.finditer(text.lower()):
        every = part["first"] == "*"
        begin = least if every else _cron_number(part["first"], least, words) or 0
        last = _cron_number(part["last"], least, words) if part["last"] else None
        end = last or (greatest if every or part["step"] else begin)
        meant.update(range(begin, end + 1, int(part["step"] or 1)))
    return meant


def _cron_number(text: str, least: int, words: list[str]) -> int | None:
    if text in words:
        return words.index(text) + least
    return int(text) if text.isdecimal() and len(text) <= 2 else None  # noqa: PLR2004 - two digits


def _is_zone(name: str) -> bool:
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # not in the database, not a legal key, a folder of the database
        return False
    return True
