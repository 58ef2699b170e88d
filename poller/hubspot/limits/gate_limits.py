"""The limits that a person set for an account."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GateLimits:
    """The limits that the person set for an account; None where they set none."""

    requests: int | None = None  # in any rolling `window_s`; None: 100, until HubSpot's headers report a limit
    window_s: float | None = None  # None: 10
    workers: int | None = None  # most requests in flight; None: 16, or more where the limit needs them
    daily_limit: int | None = None
    daily_reserve: float = 0.1  # left to the account's other apps: a share below 1, or a number of requests
    time_zone: str = "UTC"  # the account's own: its day ends at midnight there
