"""When will it be finished? Judges by the pace of the last minutes, the limit, the day's quota and the pauses. Pure."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from poller.engine.history import Step

LITTLE, MUCH = 10, 100  # outcomes from which a pace is told: to a third, to a tenth
SHORTEST_S = 15.0  # of time
DAY_S = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOutlook:
    """What an account has to say of the future."""

    account: str
    rate_per_s: float  # requests, at most
    is_paused: bool
    resume_at: float | None  # of a pause; None: nobody knows
    next_due_at: float | None  # when a poll is next due; None: nothing waits
    daily_left: int | None  # requests of today; None: no limit is known
    daily_usable: int | None  # requests of a whole day
    resets_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """`at` is the best guess, between the others. `word` says how sure that is."""

    word: str  # done, open, pace, soon, blocked
    at: float | None = None
    earliest_at: float | None = None  # not before: one poll each at the limit
    latest_at: float | None = None
    quota_days: int = 0  # midnights that the day's quota makes it wait for


def forecast(
    *,
    now: float,
    waiting: int,
    is_open: bool,
    steps: Sequence[Step],
    lanes: Sequence[LaneOutlook],
    polls_per_task: float,
    times_out_at: float | None,
) -> Forecast:
    """Return when the waiting tasks will have their outcomes.

    `is_open`: more input may come. `times_out_at`: when the youngest task runs into its deadline.
    """
    if not waiting:
        return Forecast(word="open" if is_open else "done")
    busy = [lane for lane in lanes if lane.next_due_at is not None] or list(lanes)
    if any(lane.is_paused and lane.resume_at is None for lane in busy):
        return Forecast(word="blocked")
    begins_at = max([now, *(lane.resume_at or now for lane in busy if lane.is_paused)])
    days, resets_at = _midnights(busy, waiting * max(1.0, polls_per_task))
    earliest_at = max(begins_at + waiting / max(_rate(busy), 1e-9), *(lane.next_due_at or now for lane in busy))
    if days:
        earliest_at = max(earliest_at, resets_at + (days - 1) * DAY_S)
    guesses_s = [waiting / pace for pace in _paces(steps)]
    if not guesses_s:
        return Forecast(word="soon", earliest_at=earliest_at, latest_at=times_out_at, quota_days=days)
    ends = [max(begins_at + guess_s, earliest_at) for guess_s in guesses_s]
    return Forecast(word="pace", at=ends[0], earliest_at=min(ends), latest_at=max(ends), quota_days=days)


def _rate(lanes: Sequence[LaneOutlook]) -> float:
    return sum(lane.rate_per_s for lane in lanes)


def _midnights(lanes: Sequence[LaneOutlook], polls: float) -> tuple[int, float]:
    """Return how many of the accounts' midnights must pass for so many polls, and when the first one comes.

    Exact for one account; of several the quotas are taken together, as which one has how much to do is not counted.
    """
    left = [lane.daily_left for lane in lanes if lane.daily_left is not None]
    if len(left) < len(lanes) or polls <= sum(left):
        return 0, 0.0
    a_day = sum(lane.daily_usable or 0 for lane in lanes)
    return math.ceil((polls - sum(left)) / max(a_day, 1)), max(lane.resets_at for lane in lanes)


def _paces(steps: Sequence[Step]) -> Iterator[float]:
    """Yield outcomes a second: of the latest span that tells a little, then of one that tells much. Pauses do not
    count. Where the two differ the pace is changing, and so is the forecast."""
    wanted, finished, seconds = LITTLE, 0, 0.0
    for step in reversed([step for step in steps if not step.paused]):
        finished, seconds = finished + step.finished, seconds + step.seconds
        if finished >= wanted and seconds >= SHORTEST_S:
            yield finished / seconds
            if wanted == MUCH:
                return
            wanted = max(MUCH, 2 * finished)
    if finished >= LITTLE and wanted == LITTLE and seconds >= 1:
        yield finished / seconds
