"""When a run will be finished: the one forecast of plan, page, terminal and `status --watch`. Pure.

It rests on the recent pace, the rate limits, the day's quota and the pauses.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from poller.core.text import duration

FEW, MANY = 10, 100  # outcomes that give a pace to about a third, and to about a tenth
SHORTEST_S = 15.0  # of the past that a pace is measured over
DAY_S = 86_400.0
LAST_ONE_IN = 100  # tasks keep no pace at the end
SURPRISE = 0.05  # the chance that the slowest task takes longer than forecast
MOST_POLLS = 3.0  # of an import, for the forecast: a trial is polled more often
TAIL_RATIO = 1.5  # of the slowest task's time to the pace's, from which it is shown


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A short stretch of a run: usually ten seconds; the first and the unfinished last one are shorter."""

    seconds: float
    polls: int
    finished: int
    paused: float  # the share of the accounts that were paused at its end
    started: int = 0  # imports


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
    """`at` is the best estimate, by the pace; it lies between `earliest_at` and `latest_at`. The last few tasks keep no
    pace: `nearly_at` is when 99 % are done, `slowest_at` until when the slowest may take."""

    state: Literal["done", "open", "estimated", "too_early", "blocked"]
    at: float | None = None
    nearly_at: float | None = None  # None: 99 % are done already, or it is not known
    slowest_at: float | None = None  # None: not known
    is_tail_open: bool = False  # the slowest may take much longer than the others, and how long is not known yet
    is_partial: bool = False  # without accounts that are paused until a person or HubSpot acts, or on trial
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
    finished: int = 0,
    slowest_at: float | None = None,
    blocked: int = 0,
    unstarted: int = 0,
) -> Forecast:
    """Return when the waiting tasks will have their outcomes, except for `blocked` of them: those of accounts that are
    paused until a person or HubSpot acts. Each of the `unstarted` other ones, rows to import, costs a request more.

    `paces` are outcomes per second, the most recent first. `is_open`: more input may come. `times_out_at` is the
    deadline of the youngest task. `finished` tasks are done; for `slowest_at` see `slowest_of`. That is no forecast
    where only the deadline bounds it, nor while most tasks still wait: those that are done show too little.
    """
    if not waiting:
        return Forecast(state="open" if is_open else "done")
    busy = [lane for lane in lanes if lane.next_due_at is not None] or lanes
    at_work = [lane for lane in busy if not lane.is_paused or lane.resume_at is not None]
    if busy and not at_work:
        return Forecast(state="blocked")
    is_partial, busy = len(at_work) < len(busy), at_work
    if is_partial and (waiting := waiting - blocked) <= 0:
        return Forecast(state="blocked")
    begins_at = max([now, *(lane.resume_at or now for lane in busy if lane.is_paused)])
    days, resets_at = _midnights(busy, waiting * max(1.0, polls_per_task) + unstarted)
    earliest_at = max([begins_at + (waiting + unstarted) / _rate(busy), *(lane.next_due_at or now for lane in busy)])
    if math.isinf(days):
        return Forecast(state="blocked")
    if days:
        earliest_at = max(earliest_at, resets_at + (days - 1) * DAY_S)
    ends = [max(begins_at + waiting / pace, earliest_at) for pace in paces]
    known = Forecast(state="too_early", earliest_at=earliest_at, is_partial=is_partial, quota_days=int(days))
    if not ends:
        return replace(known, latest_at=times_out_at)
    last = (waiting + finished) // LAST_ONE_IN
    nearly_at = begins_at + (ends[0] - begins_at) * (waiting - last) / waiting if waiting > last else None
    slowest_at = None if slowest_at is None else max(slowest_at, ends[0])
    is_learned = finished >= waiting and (times_out_at is None or slowest_at is None or slowest_at < times_out_at)
    is_tail_open = has_tail(ends[0], slowest_at, now) and not is_learned
    cast = replace(known, state="estimated", at=ends[0], latest_at=max(ends), earliest_at=min(ends))
    slowest_at = None if is_tail_open else slowest_at
    return replace(cast, nearly_at=nearly_at, slowest_at=slowest_at, is_tail_open=is_tail_open)


def has_tail(at: float, slowest_at: float | None, now: float) -> bool:
    """Return whether the slowest may take much longer than the pace suggests."""
    return slowest_at is not None and slowest_at - now >= TAIL_RATIO * max(1.0, at - now)


def slowest_of(
    waiting: int, *, youngest_s: float, now: float, unfinished_at: Callable[[float], float] | None, times_out_at: float
) -> float:
    """Return until when the slowest of the waiting tasks may take: in one case of twenty it takes longer.

    `youngest_s` is the age of the youngest, `unfinished_at` the learned chance to be unfinished at an age, from
    finished and unfinished imports alike; None where too little is known: then only the deadline bounds it.
    """
    if unfinished_at is None or not waiting or now >= times_out_at:
        return max(now, times_out_at)
    wanted = SURPRISE * unfinished_at(youngest_s) / waiting
    low, high = 0.0, times_out_at - now
    if unfinished_at(youngest_s + high) > wanted:
        return times_out_at
    while high - low > max(1.0, 0.01 * low):
        middle = (low + high) / 2
        low, high = (middle, high) if unfinished_at(youngest_s + middle) > wanted else (low, middle)
    return now + high


def time_left(cast: Forecast, now: float, *, left_out: str = "paused accounts") -> str:
    """Return how long it will take, for people, such as `99 % in about 3 min, the slowest may take 20 min`; empty where
    that is not known. A partial forecast is one without the `left_out`."""
    if cast.at is None:
        return ""
    partial = f", without {left_out}" if cast.is_partial else ""
    slowest_at = cast.slowest_at
    if cast.is_tail_open and cast.nearly_at is not None:
        return f"99 % in about {_left(cast.nearly_at, now)}, a few may take longer{partial}"
    if cast.is_tail_open or slowest_at is None or not has_tail(cast.at, slowest_at, now):
        longer = ", a few may take longer" if cast.is_tail_open else ""
        return f"about {_left(cast.at, now)} left{longer}{partial}"
    if cast.nearly_at is None:
        return f"the last ones may take {_left(slowest_at, now)}{partial}"
    return f"99 % in about {_left(cast.nearly_at, now)}, the slowest may take {_left(slowest_at, now)}{partial}"


def _left(at: float, now: float) -> str:
    return duration(max(1, round(at - now)))


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


def import_paces(steps: Sequence[Step], *, waiting: int, unstarted: int, polls: int, starts: int) -> Iterator[float]:
    """Yield outcomes per second as `recent_paces`, of a run that starts imports. While rows wait to be started, starts
    and outcomes come in turns; what is steady are the requests, of which each row costs one and then its polls.

    `polls` and `starts` are those of the run so far.
    """
    if not unstarted:
        yield from recent_paces(steps)
        return
    left = unstarted + waiting * min(max(1.0, polls / max(1, starts)), MOST_POLLS)
    requests = [replace(step, finished=step.polls + step.started) for step in steps]
    yield from (pace * waiting / left for pace in recent_paces(requests))


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
