"""The rate limit that HubSpot's answers showed, as a state keeps it: for forecasts, and for the account's next gate,
which waits for that window where it does not know what was sent. Pure.
"""

from msgspec import DecodeError, Struct, json, structs


class LearnedLimit(Struct, frozen=True, kw_only=True):
    """At most `requests` in any window: the tighter one of the person's and HubSpot's."""

    requests: int
    window_s: float
    reported_requests: int = 0  # HubSpot's own, which may be the longer one; 0: as above
    reported_window_s: float = 0.0

    def beside(self, requests: int, window_s: float) -> "LearnedLimit":
        """Return this limit with the one that HubSpot's headers reported."""
        return structs.replace(self, reported_requests=requests, reported_window_s=window_s)

    @property
    def reported(self) -> tuple[int, float]:
        """The limit that HubSpot's headers reported, and its window."""
        if self.reported_requests > 0 and self.reported_window_s > 0:
            return self.reported_requests, self.reported_window_s
        return self.requests, self.window_s


def limit_key(account: str) -> str:
    """Return the key of an account's limit in the store's knowledge."""
    return f"limit {account}"


def encode_limit(limit: LearnedLimit) -> bytes:
    return json.encode(limit)


def decode_limit(knowledge: bytes | None) -> LearnedLimit | None:
    """Return the stored limit; None for nothing, and for what cannot be read."""
    try:
        limit = None if knowledge is None else json.decode(knowledge, type=LearnedLimit)
    except DecodeError:
        return None
    return limit if limit is not None and limit.requests > 0 and limit.window_s > 0 else None
