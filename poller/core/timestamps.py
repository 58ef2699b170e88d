"""Convert instants to text and back: seconds since the epoch inside, RFC 3339 outside. Pure."""

from datetime import UTC, datetime, timedelta

EARLIEST, LATEST = 946_684_800.0, 4_102_444_800.0  # 2000 and 2100: instants outside are invalid
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - in UTC


def iso(instant: float) -> str:
    """Return an instant as RFC 3339 in UTC with milliseconds, such as `2026-01-05T00:00:00.000Z`."""
    since = _EPOCH + timedelta(seconds=instant)  # without a zone: two thirds of the time of `fromtimestamp`
    return f"{since.isoformat(timespec='milliseconds')}Z"


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
