"""One account's learned timing between the words of the model and the numbers of `Learned`, and on disk as bytes."""

import math
from typing import Any

import orjson

from poller.core.model import Finished, Outcome, Running, Task
from poller.core.timestamps import epoch
from poller.schedule.hazard import BANDS, FIRST_EDGE_S, OLDEST_S, RATIO, Hazard
from poller.schedule.learned import FEEDING_AGES, Learned, Price

VERSION = 1
SAVE_EVERY_S = 10.0
SKEW_S = 300.0  # instants so far in the future are another clock's; beyond it, nonsense


def knowledge_name(account: str, status_path: str) -> str:
    """Return what an account's knowledge is kept under: the tasks of another endpoint take another time."""
    return f"timing {account} {status_path}"


class Unreadable(Exception):
    """Noted knowledge that cannot be used; the message says why."""


class AccountTiming:
    """When to poll again the running tasks of one account."""

    def __init__(self, name: str, price: Price, knowledge: bytes | None = None) -> None:
        """`name` is what the knowledge is kept under. Raises `Unreadable` where it is damaged or of another version."""
        self.name = name
        self.learned = Learned(price) if knowledge is None else recalled(price, knowledge)
        self._saved_at = -math.inf

    def learn(self, task: Task, outcome: Outcome, *, asked_at: float, now: float) -> float | None:
        """Learn from a poll; return how long to wait for the next one where the task is still running."""
        if not isinstance(outcome, Running | Finished):
            return None
        if task.polls:
            self.learned.waited(max(0.0, asked_at - task.due_at))
        first = task.polls == task.errors  # until now only failures, if anything
        requested_at = _requested_at(task, outcome, now)
        if first and requested_at is not None:
            self.learned.fed(max(0.0, task.fed_at - requested_at))
        took_s = _took_s(outcome, requested_at) if isinstance(outcome, Finished) else None
        if requested_at is None:
            requested_at = task.fed_at - self.learned.usual_feeding_age_s
        age_s = max(0.0, now - requested_at)
        if isinstance(outcome, Finished):
            self.learned.finished(task.key, age_s, took_s, first=first)
            return None
        self.learned.unfinished(task.key, age_s, first=first)
        return self.learned.gap_s(age_s)

    def forget(self, task: Task) -> None:
        """The task is polled no more."""
        self.learned.forget(task.key)

    @property
    def first_poll_s(self) -> float:
        """How long after its feeding a task is best polled."""
        return self.learned.first_poll_s

    def refresh(self, now: float) -> bool:
        """Plan anew if it is time for it; return whether it was."""
        return self.learned.refresh(now)

    def to_save(self, now: float) -> bytes | None:
        """Return the knowledge where it was not returned for a while."""
        if abs(now - self._saved_at) < SAVE_EVERY_S:
            return None
        self._saved_at = now
        return self.knowledge()

    def knowledge(self) -> bytes:
        """Return what a later `AccountTiming` needs to go on from here."""
        hazard = self.learned.hazard
        return orjson.dumps(
            {
                "version": VERSION,
                "bands": _BANDS,
                "finished": hazard.finished,
                "events": [round(count, 4) for count in hazard.events()],
                "exposure_s": [round(seconds, 2) for seconds in hazard.exposure_s()],
                "feeding_ages_s": [round(age, 2) for age in self.learned.feeding_ages_s],
            }
        )


_BANDS = [FIRST_EDGE_S, RATIO, BANDS]


def _requested_at(task: Task, outcome: Running | Finished, now: float) -> float | None:
    """Return when the import was requested, None where that is not told or cannot be."""
    told = epoch(outcome.requested_at) if isinstance(outcome, Finished) else outcome.requested_at
    at = task.requested_at if told is None else told
    return at if at is not None and now - OLDEST_S <= at <= now + SKEW_S else None


def _took_s(outcome: Finished, requested_at: float | None) -> float | None:
    completed_at = epoch(outcome.completed_at)
    if requested_at is None or completed_at is None or not -SKEW_S <= completed_at - requested_at <= OLDEST_S:
        return None
    return max(0.0, completed_at - requested_at)


def recalled(price: Price, knowledge: bytes) -> Learned:
    """Return what `AccountTiming.knowledge` told. Raises `Unreadable`."""
    try:
        noted = orjson.loads(knowledge)
        version, bands = noted["version"], noted["bands"]
        if version != VERSION or bands != _BANDS:
            raise Unreadable(f"it is of version {version!r} with bands {bands!r}, not {VERSION} with {_BANDS}")
        hazard = Hazard.of(
            int(noted["finished"]), _numbers(noted["events"], BANDS), _numbers(noted["exposure_s"], BANDS)
        )
        ages_s = _numbers(noted["feeding_ages_s"], None)[-FEEDING_AGES:]
    except (ValueError, TypeError, KeyError) as error:
        raise Unreadable(f"it is damaged ({type(error).__name__})") from None
    return Learned(price, hazard, ages_s)


def _numbers(values: Any, count: int | None) -> list[float]:
    numbers = [float(value) for value in values]
    if count not in (None, len(numbers)) or not all(0 <= number < math.inf for number in numbers):
        raise ValueError("not the numbers expected")
    return numbers
