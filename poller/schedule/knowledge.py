"""What an account's timing has learned, as it is kept in the state. Pure."""

from dataclasses import astuple, dataclass, field
from typing import Any

import orjson

from poller.schedule.hazard import AGES, Axis, Hazard
from poller.schedule.learned import FEEDING_AGES, PollPlanner, Tradeoff
from poller.schedule.line import AXIS

VERSION = 2
AGES_ONLY = 1  # the version that knew ages alone
LARGEST = 1e15  # a number beyond it is damage, and not seconds of any number of imports
_BANDS = [AGES.edges[1], round(AGES.edges[2] / AGES.edges[1], 6), AGES.bands]


def knowledge_key(account: str, status_path: str) -> str:
    """Return the key of an account's knowledge in the store: tasks of another endpoint have other durations."""
    return f"timing {account} {status_path}"


class KnowledgeUnreadable(Exception):
    """Stored knowledge that cannot be used; the message is the reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLine:
    """What imports that are worked off in order cost lately."""

    per_second: float  # completed
    polls: float  # of each
    late_s: float  # from the completion to the poll that saw it, on average


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What was learned: the spread of durations, that around a line, and the evidence for lines. Where a line is shows
    again with the first finished imports."""

    ages: Hazard = field(default_factory=Hazard)
    feeding_ages_s: tuple[float, ...] = ()
    by_feeding: Hazard = field(default_factory=lambda: Hazard(axis=AXIS))
    by_request: Hazard = field(default_factory=lambda: Hazard(axis=AXIS))
    by_start: Hazard = field(default_factory=Hazard)
    evidence_by_feeding: float = 0.0
    evidence_by_request: float = 0.0
    evidence_by_start: float = 0.0
    line: KnownLine | None = None  # for forecasts only; None: no line decides
    explanation: str = ""  # what the polls follow from, for people


def encode(known: Known) -> bytes:
    """Return it as bytes."""
    lines = {"by_feeding": known.by_feeding, "by_request": known.by_request}
    evidence = (known.evidence_by_feeding, known.evidence_by_request, known.evidence_by_start)
    return orjson.dumps(
        {
            "version": VERSION,
            "bands": _BANDS,
            **_table(known.ages),
            "feeding_ages_s": [round(age, 2) for age in known.feeding_ages_s],
            "by_start": _table(known.by_start),
            "lines": {name: _table(hazard) for name, hazard in lines.items()},
            "evidence": [round(each, 3) for each in evidence],
            "line": None if known.line is None else astuple(known.line),
            "explanation": known.explanation,
        }
    )


def _table(hazard: Hazard) -> dict[str, Any]:
    return {
        "finished": hazard.finished,
        "events": [round(count, 4) for count in hazard.events()],
        "exposure_s": [round(seconds, 2) for seconds in hazard.exposure_s()],
    }


def decode(knowledge: bytes) -> Known:
    """Return what `encode` was given. Raises `KnowledgeUnreadable`."""
    try:
        stored = orjson.loads(knowledge)
        version, bands = stored["version"], stored["bands"]
        if version not in (AGES_ONLY, VERSION) or bands != _BANDS:
            raise KnowledgeUnreadable(f"it is of version {version!r} with bands {bands!r}, not {VERSION} with {_BANDS}")
        ages = _hazard(stored, AGES)
        feeding_ages_s = tuple(_numbers(stored["feeding_ages_s"])[-FEEDING_AGES:])
        if version == AGES_ONLY:
            return Known(ages=ages, feeding_ages_s=feeding_ages_s)
        lines, (by_feeding, by_request, by_start) = stored["lines"], stored["evidence"]
        return Known(
            ages=ages,
            feeding_ages_s=feeding_ages_s,
            by_feeding=_hazard(lines["by_feeding"], AXIS),
            by_request=_hazard(lines["by_request"], AXIS),
            evidence_by_feeding=_number(by_feeding),
            by_start=_hazard(stored["by_start"], AGES),
            evidence_by_request=_number(by_request),
            evidence_by_start=_number(by_start),
            line=_line(stored.get("line")),
            explanation=str(stored["explanation"]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise KnowledgeUnreadable(f"it is damaged ({type(error).__name__})") from None


def explanation_of(knowledge: bytes | None) -> str | None:
    """Return what an account's polls follow from, for people; None where nothing is known."""
    try:
        return None if knowledge is None else decode(knowledge).explanation or None
    except KnowledgeUnreadable:
        return None


def line_of(knowledge: bytes | None) -> KnownLine | None:
    """Return what an account's imports cost in their line; None where they are in none, as far as is known."""
    try:
        return None if knowledge is None else decode(knowledge).line
    except KnowledgeUnreadable:
        return None


def planner_from(tradeoff: Tradeoff, knowledge: bytes) -> PollPlanner:
    """Return a planner that knows the durations. Raises `KnowledgeUnreadable`."""
    known = decode(knowledge)
    return PollPlanner(tradeoff, known.ages, known.feeding_ages_s)


def _line(stored: Any) -> KnownLine | None:
    if stored is None:
        return None
    per_second, polls, late_s = _numbers(stored)
    return KnownLine(per_second=per_second, polls=polls, late_s=late_s) if per_second > 0 else None


def _hazard(stored: dict[str, Any], axis: Axis) -> Hazard:
    events, exposure_s = _numbers(stored["events"]), _numbers(stored["exposure_s"])
    if not len(events) == len(exposure_s) == axis.bands:
        raise ValueError("unexpected numbers")
    [finished] = _numbers([stored["finished"]])
    return Hazard(int(finished), events, exposure_s, axis=axis)


def _numbers(values: Any) -> list[float]:
    numbers = [_number(value) for value in values]
    if any(number < 0 for number in numbers):
        raise ValueError("unexpected numbers")
    return numbers


def _number(value: Any) -> float:
    number = float(value)
    if not abs(number) <= LARGEST:
        raise ValueError("unexpected numbers")
    return number
