"""When a run will be finished: the one forecast of plan, page, terminal and `status --watch`. Pure.

It rests on the recent pace, the rate limits, the day's quota and the pauses.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from poller.core.text import duration

FEW, MANY = 10, 100  # outcomes that give a pace to about a third, and to about a tenth
SHORTEST_S = 15.0  # of the past that a pace is measured over
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A short stretch of a run: usually ten seconds; the first and the unfinished last one are shorter."""

    seconds: float
    polls: int
    finished: int
    paused: float  # the share of the accounts that were paused at its end


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOutlook:
    """What bounds an account's requests from now on."""

    rate_per_s: float | None = None  # requests, at most; None: not known
    is_paused: bool = False
    resume_at: float | None = None  # of a pause; None: its end is not known
    next_due_at: float | None = None  # when a poll is next due; None: no task waits, or it is not known
    daily_left: int | None = None  # requests of today; None: no limit is known
    daily_usable: int | None = None  # requests of a whole day
    resets_at: float = 0.0  # the account's next midnight


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """`at` is the best estimate and lies between the other two."""

    state: Literal["done", "open", "estimated", "too_early", "blocked"]
    at: float | None = None
    earliest_at: float | None = None  # not before: one poll a task at the limit
    latest_at: float | None = None
    quota_days: int = 0  # midnights to wait for, because the day's quota is used up


def forecast(
    *,
    now: float,
    waiting: int,
    paces: Iterable[float],
    lanes: Sequence[LaneOutlook] = (),
    is_open: bool = False,
    polls_per_task: float = 1.0,
    times_out_at: float | None = None,
) -> Forecast:
    """Return when the waiting tasks will have their outcomes.

    `paces` are outcomes per second, the most recent first. `is_open`: more input may come. `times_out_at` is the
    deadline of the youngest task.
    """
    if not waiting:
        return Forecast(state="open" if is_open else "done")
    busy = [lane for lane in lanes if lane.next_due_at is not None] or lanes
    if any(lane.is_paused and lane.resume_at is None for lane in busy):
        return Forecast(state="blocked")
    begins_at = max([now, *(lane.resume_at or now for lane in busy if lane.is_paused)])
    days, resets_at = _midnights(busy, waiting * max(1.0, polls_per_task))
    earliest_at = max([begins_at + waiting / _rate(busy), *(lane.next_due_at or now for lane in busy)])
    if math.isinf(days):
        return Forecast(state="blocked")
    if days:
        earliest_at = max(earliest_at, resets_at + (days - 1) * DAY_S)
    ends = [max(begins_at + waiting / pace, earliest_at) for pace in paces]
    if not ends:
        return Forecast(state="too_early", earliest_at=earliest_at, latest_at=times_out_at, quota_days=int(days))
    return Forecast(state="estimated", at=ends[0], earliest_at=min(ends), latest_at=max(ends), quota_days=int(days))


def time_left(cast: Forecast, now: float) -> str:
    """Return how long it will take, for people; empty where that is not known."""
    return f"about {duration(max(1, round(cast.at - now)))} left" if cast.at is not None else ""


def recent_paces(steps: Sequence[Step]) -> Iterator[float]:
    """Yield outcomes per second over the shortest recent past that has `FEW`, then over one that has `MANY`. Steps in
    which every account was paused do not count. Where the two differ the pace is changing, so the end is uncertain."""
    wanted, finished, seconds = FEW, 0, 0.0
    for step in reversed([step for step in steps if step.paused < 1]):
        finished, seconds = finished + step.finished, seconds + step.seconds
        if finished >= wanted and seconds >= SHORTEST_S:
            yield finished / seconds
            if wanted == MANY:
                return
            wanted = max(MANY, 2 * finished)
    if finished >= FEW and wanted == FEW and seconds >= 1:
        yield finished / seconds


def _rate(lanes: Sequence[LaneOutlook]) -> float:
    """Return how many requests a second the lanes may send together; infinity where that is not known."""
    rates = [lane.rate_per_s for lane in lanes if lane.rate_per_s is not None]
    return max(sum(rates), 1e-9) if rates and len(rates) == len(lanes) else math.inf


def _midnights(lanes: Sequence[LaneOutlook], polls: float) -> tuple[float, float]:
    """Return how many of the accounts' midnights must pass for this many polls (infinity: no day has any left for
    us), and the instant of the first one.

    Exact for one account. Of several the quotas are added up, because the tasks of each are not counted.
    """
    left = [lane.daily_left for lane in lanes if lane.daily_left is not None]
    if not lanes or len(left) < len(lanes) or polls <= sum(left):
        return 0, 0.0
    per_day = sum(lane.daily_usable or 0 for lane in lanes)
    days = math.ceil((polls - sum(left)) / per_day) if per_day else math.inf
    return days, max(lane.resets_at for lane in lanes)
