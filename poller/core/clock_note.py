"""What a run notes in its state once the machine's clock was set: the next run moves the stored instants by so much."""

import msgspec

from poller.core.steady_clock import SteadyClock

CLOCK_NOTE = "clock"  # its name in the store's knowledge


class ClockNote(msgspec.Struct, frozen=True, kw_only=True):
    """All instants of waiting tasks are `behind_s` seconds too early, and those of what ended since `since`."""

    behind_s: float  # below 0: too late
    since: float  # the run's start, by its clock


def note_of(clock: SteadyClock) -> bytes:
    """Return the note of a run with this clock."""
    return msgspec.json.encode(ClockNote(behind_s=clock.behind_s, since=clock.began_at))


def decode_note(note: bytes) -> ClockNote | None:
    """Return what was noted; None where it cannot be read."""
    try:
        return msgspec.json.decode(note, type=ClockNote)
    except msgspec.MsgspecError:
        return None
