"""A model of a whole import before it begins: rows are started and polled under one limit. Pure; no real time."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from poller.schedule.learned import PollPlanner, Tradeoff
from poller.schedule.simulate import MOST_PLAYED, Course, SimulatedRun
from poller.schedule.starts import POLLS_BEFORE_A_START, REPRICE_EVERY_S, StartRules
from poller.schedule.trial import Trial

NEAR_S = 1e-3  # not worth putting a poll off
PLANNED_FOR = 0.01  # of an unfinished import's age: so long its polls need no new plan
MOST_DRAWN = 200_000  # rows whose import times are drawn, to find the slowest


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportTiming:
    """How the polls of started rows are timed."""

    gap_s: Callable[[float], float]  # the wait at an age
    learned: PollPlanner | None = None  # replaces `gap_s` and continues to learn
    price: Callable[[int, float], Tradeoff] | None = None  # what a poll is worth by unstarted rows and pace


def simulate_imports(
    count: int,
    courses: Callable[[int], Sequence[Course]],
    *,
    per_second: float,
    deadline_s: float,
    rules: StartRules,
    timing: ImportTiming,
) -> SimulatedRun:
    """Play the import of `count` rows. `courses` returns as many courses as are played; their ages do not count. Of
    many rows some are played, at the same share of the limit."""
    if count == 0:
        return SimulatedRun(polls=0, lasts_s=0.0, mean_late_s=0.0, timed_out=0)
    played = min(count, MOST_PLAYED)
    share = played / count
    scaled = StartRules(underway=max(1, round(rules.underway * share)), trial=-(-rules.trial * played // count))
    play = _Play(courses(played), 1 / (per_second * share), deadline_s, scaled, timing)
    lasts_s = max(play.run(), _slowest_ends_s(courses(min(count, MOST_DRAWN)), play.last_start_s, deadline_s))
    late_s = play.late_s
    return SimulatedRun(
        polls=round(play.polls / share),
        lasts_s=lasts_s,
        mean_late_s=sum(late_s) / len(late_s) if late_s else 0.0,
        timed_out=round((played - len(late_s)) / share),
    )


def _slowest_ends_s(courses: Sequence[Course], last_start_s: float, deadline_s: float) -> float:
    """Return when the last of many imports ends, all being started evenly: those that are played have no such one."""
    apart_s = last_start_s / len(courses)
    return max(turn * apart_s + min(course.took_s, deadline_s) for turn, course in enumerate(courses))


@dataclass(slots=True)
class _Play:
    """One account at work, in the order of the engine's `DueWork`: due polls, and after some in a row one start."""

    courses: Sequence[Course]
    spacing_s: float
    deadline_s: float
    rules: StartRules
    timing: ImportTiming
    polls: int = 0
    last_start_s: float = 0.0
    late_s: list[float] = field(default_factory=list)
    _due: list[tuple[float, int, float, float]] = field(default_factory=list)  # due, row, started, age when polled last
    _started: int = 0
    _polls_in_row: int = 0
    _repriced_at: float = float("-inf")
    _replan_at: float = 0.0
    _trial: Trial = field(default_factory=lambda: Trial(0))

    def run(self) -> float:
        """Return the instant of the last request; if all of the trial times out, that ends it."""
        self._trial = Trial(self.rules.trial)
        now = free_at = 0.0
        while self._due or self._may_start:
            may_start = self._may_start
            now = free_at if may_start else max(free_at, self._due[0][0])
            self._reprice(now)
            is_due = bool(self._due) and self._due[0][0] <= now
            if is_due and self._put_off(now):
                continue
            if is_due and (self._polls_in_row < POLLS_BEFORE_A_START or not may_start):
                self._poll(now)
            else:
                self._start(now)
            free_at = now + self.spacing_s
        return now

    @property
    def _may_start(self) -> bool:
        is_left = self._started < len(self.courses)
        return is_left and len(self._due) < self.rules.underway and not self._trial.holds

    def _start(self, now: float) -> None:
        first_s = 0.0 if self.timing.learned is None else self.timing.learned.first_poll_s
        heapq.heappush(self._due, (now + first_s, self._started, now, 0.0))
        self._started += 1
        self.last_start_s = now
        self._polls_in_row = 0
        self._trial.count(1)

    def _put_off(self, now: float) -> bool:
        """Whether the row that is due for its first poll waits as long as was learned since its start."""
        _, row, started_at, before_s = self._due[0]
        learned = self.timing.learned
        if before_s or learned is None or started_at + learned.first_poll_s <= now + NEAR_S:
            return False
        heapq.heapreplace(self._due, (started_at + learned.first_poll_s, row, started_at, before_s))
        return True

    def _poll(self, now: float) -> None:
        due_at, row, started_at, before_s = heapq.heappop(self._due)
        took_s, age_s, learned = self.courses[row].took_s, now - started_at, self.timing.learned
        self.polls += 1
        self._polls_in_row += 1
        if learned is not None:
            learned.pressure.waited(now - due_at)
            if not before_s:
                learned.fed(0.0)
            learned.learn(min(before_s, took_s), min(age_s, took_s), finished=took_s <= age_s)
            if took_s <= age_s or now >= self._replan_at:
                learned.refresh(now)
                self._replan_at = now + PLANNED_FOR * age_s
        if took_s <= age_s:
            self.late_s.append(age_s - took_s)
            self._trial.end(None)
        elif age_s < self.deadline_s:
            wait_s = self.timing.gap_s(age_s) if learned is None else learned.gap_s(age_s)
            due_at = min(now + wait_s, started_at + self.deadline_s)
            heapq.heappush(self._due, (due_at, row, started_at, age_s))
        else:
            self._trial.end("timed_out")

    def _reprice(self, now: float) -> None:
        if self.timing.price is None or self.timing.learned is None or now - self._repriced_at < REPRICE_EVERY_S:
            return
        self._repriced_at = now
        waiting = len(self.courses) - self._started if self._may_start else 0
        self.timing.learned.reprice(self.timing.price(waiting, 1 / self.spacing_s))
