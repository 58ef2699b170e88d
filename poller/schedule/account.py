"""One account's learned timing: translates outcomes for its `PollPlanner` and encodes what that has learned."""

import math
from typing import Any

import orjson

from poller.core.model import Finished, Outcome, Running, Task
from poller.core.timestamps import epoch
from poller.schedule.hazard import BANDS, FIRST_EDGE_S, OLDEST_S, RATIO, Hazard
from poller.schedule.learned import FEEDING_AGES, PollPlanner, Tradeoff
from poller.schedule.standstill import Standstill

VERSION = 1
SAVE_EVERY_S = 10.0
SKEW_S = 300.0  # an instant in the future is another clock's up to this; beyond it, nonsense


def knowledge_key(account: str, status_path: str) -> str:
    """Return the key of an account's knowledge in the store: tasks of another endpoint have other durations."""
    return f"timing {account} {status_path}"


class KnowledgeUnreadable(Exception):
    """Stored knowledge that cannot be used; the message is the reason."""


class AccountTiming:
    """Decides when to poll the running tasks of one account."""

    def __init__(self, name: str, tradeoff: Tradeoff, knowledge: bytes | None = None) -> None:
        """`name` is the knowledge's key in the store. Raises `KnowledgeUnreadable` where it is damaged."""
        self.name = name
        self.planner = PollPlanner(tradeoff) if knowledge is None else planner_from(tradeoff, knowledge)
        self.standstill = Standstill()
        self.deadline_s = tradeoff.deadline_s
        self._saved_at = -math.inf

    def learn(self, task: Task, outcome: Outcome, *, asked_at: float, now: float) -> float | None:
        """Learn from a poll; return the wait for the next one where the task is still running."""
        if not isinstance(outcome, Running | Finished):
            return None
        if task.polls:
            self.planner.waited(max(0.0, asked_at - task.due_at))
        first = task.seen_at is None
        requested_at = _requested_at(task, outcome, now)
        if first and requested_at is not None:
            self.planner.fed(max(0.0, task.fed_at - requested_at))
        took_s = _took_s(outcome, requested_at) if isinstance(outcome, Finished) else None
        if requested_at is None:
            requested_at = task.fed_at - self.planner.usual_feeding_age_s
        age_s = max(0.0, now - requested_at)
        before_s = 0.0 if task.seen_at is None else min(max(0.0, task.seen_at - requested_at), age_s)
        if isinstance(outcome, Finished):
            self.standstill.finished()
            self.planner.finished(before_s, age_s, took_s)
            return None
        chance = self.planner.chance(before_s, age_s)
        self.standstill.unfinished(chance, now=now, deadline_at=task.fed_at + self.deadline_s)
        self.planner.unfinished(before_s, age_s)
        return self.planner.gap_s(age_s)

    @property
    def first_poll_s(self) -> float:
        """The wait from an import's feeding to its first poll."""
        return self.planner.first_poll_s

    def refresh(self, now: float) -> bool:
        """Recompute the plan if that is due; return whether it was."""
        return self.planner.refresh(now)

    def to_save(self, now: float) -> bytes | None:
        """Return the knowledge to save, at most every `SAVE_EVERY_S`."""
        if abs(now - self._saved_at) < SAVE_EVERY_S:
            return None
        self._saved_at = now
        return self.knowledge()

    def knowledge(self) -> bytes:
        """Return what a later `AccountTiming` needs to continue from here."""
        hazard = self.planner.hazard
        return orjson.dumps(
            {
                "version": VERSION,
                "bands": _BANDS,
                "finished": hazard.finished,
                "events": [round(count, 4) for count in hazard.events()],
                "exposure_s": [round(seconds, 2) for seconds in hazard.exposure_s()],
                "feeding_ages_s": [round(age, 2) for age in self.planner.feeding_ages_s],
            }
        )


_BANDS = [FIRST_EDGE_S, RATIO, BANDS]


def _requested_at(task: Task, outcome: Running | Finished, now: float) -> float | None:
    """Return when the import was requested; None where that is unknown or impossible."""
    reported = epoch(outcome.requested_at) if isinstance(outcome, Finished) else outcome.requested_at
    at = task.requested_at if reported is None else reported
    return at if at is not None and now - OLDEST_S <= at <= now + SKEW_S else None


def _took_s(outcome: Finished, requested_at: float | None) -> float | None:
    completed_at = epoch(outcome.completed_at)
    if requested_at is None or completed_at is None or not -SKEW_S <= completed_at - requested_at <= OLDEST_S:
        return None
    return max(0.0, completed_at - requested_at)


def planner_from(tradeoff: Tradeoff, knowledge: bytes) -> PollPlanner:
    """Decode the result of `AccountTiming.knowledge`. Raises `KnowledgeUnreadable`."""
    try:
        stored = orjson.loads(knowledge)
        version, bands = stored["version"], stored["bands"]
        if version != VERSION or bands != _BANDS:
            raise KnowledgeUnreadable(f"it is of version {version!r} with bands {bands!r}, not {VERSION} with {_BANDS}")
        hazard = Hazard(
            int(stored["finished"]), _numbers(stored["events"], BANDS), _numbers(stored["exposure_s"], BANDS)
        )
        ages_s = _numbers(stored["feeding_ages_s"], None)[-FEEDING_AGES:]
    except (ValueError, TypeError, KeyError) as error:
        raise KnowledgeUnreadable(f"it is damaged ({type(error).__name__})") from None
    return PollPlanner(tradeoff, hazard, ages_s)


def _numbers(values: Any, count: int | None) -> list[float]:
    numbers = [float(value) for value in values]
    if count not in (None, len(numbers)) or not all(0 <= number < math.inf for number in numbers):
        raise ValueError("unexpected numbers")
    return numbers
