"""Reads an instant that a person wrote: `yesterday`, `2h`, `09:30`, `2026-11-27 01:00`, or RFC 3339. Pure.

An instant without a zone is in the zone of the person who wrote it. The program shows which instant it understood.
"""

import re
from datetime import UTC, datetime, time, timedelta, tzinfo

from poller.core.timestamps import EARLIEST, LATEST

EXAMPLES = "yesterday, 2h, 3d, 09:30, 2026-11-27, '2026-11-27 01:00' or 2026-11-27T01:00:00Z"

_AGO = re.compile(
    r"([0-9]{1,6}(?:\.[0-9]{1,3})?) ?(?:(s|secs?|seconds?)|(m|mins?|minutes?)|(h|hours?)|(d|days?)|(w|weeks?))(?: ago)?"
)
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?")
_UNITS_S = (1, 60, 3600, 86_400, 604_800)


def moment(text: str, *, now: float, zone: tzinfo | None = None) -> float:
    """Return the instant in seconds since the epoch. `zone` is the person's; None: that of this machine.

    Raises `ValueError` with what was written, and examples of what is right.
    """
    written = " ".join(text.split()).lower()
    try:
        at = _ago(written, now)
        at = _instant(written, datetime.fromtimestamp(now, zone), zone) if at is None else at
        if EARLIEST <= at <= LATEST:
            return at
    except (ValueError, OverflowError, OSError):
        pass
    raise ValueError(f"{text[:40]!r} is not an instant. Write one such as {EXAMPLES}")


def _ago(written: str, now: float) -> float | None:
    found = _AGO.fullmatch(written)
    if found is None:
        return None
    return now - float(found[1]) * next(unit for unit, word in zip(_UNITS_S, found.groups()[1:], strict=True) if word)


def _instant(written: str, today: datetime, zone: tzinfo | None) -> float:
    """Return the instant of a day, of a time of today, or of both."""
    if written == "now":
        return today.timestamp()
    if written in ("today", "yesterday"):
        day = today.date() - timedelta(days=written == "yesterday")
        return _at(datetime.combine(day, time()), zone)
    if found := _TIME.fullmatch(written):
        return _at(datetime.combine(today.date(), time(int(found[1]), int(found[2]), int(found[3] or 0))), zone)
    return _at(datetime.fromisoformat(re.sub(" ?(utc|z)$", "Z", written)), zone)


def _at(moment: datetime, zone: tzinfo | None) -> float:
    """Return the instant of a local time; one with a zone keeps it."""
    return (moment if moment.tzinfo is not None or zone is None else moment.replace(tzinfo=zone)).timestamp()


def moment_text(at: float, zone: tzinfo | None = None) -> str:
    """Return an instant with its zone, and in UTC where that is another, such as `2026-11-27 01:00 CET (00:00 UTC)`."""
    local, utc = datetime.fromtimestamp(at, UTC).astimezone(zone), datetime.fromtimestamp(at, UTC)
    if local.utcoffset() == timedelta():
        return f"{utc:%Y-%m-%d %H:%M:%S} UTC"
    day = "" if local.date() == utc.date() else f"{utc:%Y-%m-%d} "
    return f"{local:%Y-%m-%d %H:%M:%S %Z} ({day}{utc:%H:%M:%S} UTC)"
