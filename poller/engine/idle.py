"""When a run that seems to do nothing sends its next request. No I/O."""

from collections.abc import Iterable

from poller.engine.lane import Lane

QUIET_S = 10.0  # a shorter silence needs no word


def idle_until(lanes: Iterable[Lane], now: float) -> float | None:
    """Return when the next request is due; None where one is in flight, due soon, or waits for the end of a pause."""
    due = []
    for lane in lanes:
        reading = lane.gate.reading()
        if reading.in_flight or (reading.state.pause is not None and lane.due_at is not None):
            return None
        if lane.due_at is not None:
            due.append(lane.due_at)
    at = min(due, default=now)
    return at if at > now + QUIET_S else None
