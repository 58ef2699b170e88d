"""What a poll showed of an import, and which of the instants that HubSpot named can be true."""

from msgspec import Struct

from poller.core.model import Finished, Running, Task
from poller.core.timestamps import epoch
from poller.schedule.hazard import OLDEST_S

LONGEST_START_S = 30.0  # between a start's departure and the answer that named its task
AHEAD_S = 900.0  # an instant in the future is another clock's up to this; beyond it, nonsense


class Seen(Struct, frozen=True, gc=False):
    """What a poll showed, by our clock."""

    requested_at: float  # a guess, where HubSpot does not name it (`is_named`)
    is_named: bool
    started_at: float | None  # None: not started, or not named
    before_at: float  # unfinished then: the poll before, or the request
    until_at: float  # still unfinished then, or finished then
    is_done: bool
    now: float


def instants(task: Task, outcome: Running | Finished, now: float) -> tuple[float | None, float | None, float | None]:
    """Return when the import was requested, started and completed, by HubSpot's clock; None where that is unknown or
    impossible."""
    if isinstance(outcome, Running):
        requested_at, started_at, completed_at = outcome.requested_at, outcome.started_at, None
    else:
        requested_at, started_at = epoch(outcome.requested_at), epoch(outcome.started_at)
        completed_at = epoch(outcome.completed_at)
    requested_at = task.requested_at if requested_at is None else requested_at
    started_at = task.started_at if started_at is None else started_at
    first, last = now - OLDEST_S, now + AHEAD_S
    return (
        requested_at if requested_at is not None and first <= requested_at <= last else None,
        started_at if started_at is not None and first <= started_at <= last else None,
        completed_at if completed_at is not None and first <= completed_at <= last else None,
    )


def sent_at_of(task: Task) -> float | None:
    """Return the earliest instant, by our clock, at which this program may have requested the import; None where
    another did."""
    return None if task.start is None else task.fed_at - LONGEST_START_S


def requested_by_our_clock(task: Task, requested_at: float) -> float:
    """Return when the import was requested: where this program did it, its own clock knows."""
    if task.start is None:
        return requested_at
    return min(max(requested_at, task.fed_at - LONGEST_START_S), task.fed_at)


def started_by_our_clock(task: Task, started_at: float, requested_at: float, now: float) -> float:
    """Return when the processing began: not in the future, nor before this program requested the import."""
    if task.start is not None and started_at < requested_at:
        return requested_at
    return started_at if started_at < now else now
