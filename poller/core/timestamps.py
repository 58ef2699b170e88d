"""Convert instants to text and back: seconds since the epoch inside, RFC 3339 outside. Pure."""

import math
from datetime import UTC, datetime
from functools import lru_cache

EARLIEST, LATEST = 946_684_800.0, 4_102_444_800.0  # 2000 and 2100: instants outside are invalid


def iso(instant: float) -> str:
    """Return an instant as RFC 3339 in UTC with milliseconds, such as `2026-01-05T00:00:00.000Z`."""
    fraction, second = math.modf(instant)
    micros = round(fraction * 1e6)
    if micros < 0 or micros == 1_000_000:
        second, micros = second + micros // 1_000_000, micros % 1_000_000
    return f"{_iso_second(second)}.{_THREE_DIGITS[micros // 1000]}Z"


_THREE_DIGITS = tuple(f"{number:03d}" for number in range(1000))


@lru_cache(maxsize=16)  # most instants of a run are of this second or the one before
def _iso_second(second: float) -> str:
    return datetime.fromtimestamp(second, UTC).replace(tzinfo=None).isoformat(timespec="seconds")


def epoch(text: object) -> float | None:
    """Return the instant of a date-time from HubSpot, in UTC if it names no zone; None for anything else."""
    if not isinstance(text, str):
        return None
    try:
        parsed = datetime.fromisoformat(text)
        instant = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return instant if EARLIEST <= instant <= LATEST else None
