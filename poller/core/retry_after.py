"""Parse the header `Retry-After`. Pure and total. Anybody can send it, so every wait has a floor and a ceiling."""

import re
from email.utils import parsedate_to_datetime

LONGEST_RETRY_AFTER_S = 86_400.0


def parse_retry_after(
    value: str | None, *, sent_at: float | None, floor_s: float = 0.0, ceiling_s: float = LONGEST_RETRY_AFTER_S
) -> float | None:
    """Return the wait that `value` requests, between `floor_s` and `ceiling_s`; None where it is absent or unusable.

    A date counts from `sent_at`, the instant of the answer, and is unusable without it.
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,9})?", text):
        wait_s = float(text)
    elif (until_at := http_date(text)) is not None and sent_at is not None:
        wait_s = until_at - sent_at
    else:
        return None
    return min(max(wait_s, floor_s), ceiling_s)


def http_date(value: str | None) -> float | None:
    """Return the instant of an HTTP date in the one format that servers may send (RFC 9110, 5.6.7), else None."""
    text = (value or "").strip()
    if not re.fullmatch(r"[A-Za-z]{3}, [0-9]{2} [A-Za-z]{3} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} (GMT|[+-]0000)", text):
        return None
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
