"""The rate limit that HubSpot's answers showed, as a state keeps it for forecasts; the gate learns its own. Pure."""

from msgspec import DecodeError, Struct, json


class LearnedLimit(Struct, frozen=True, kw_only=True):
    """At most `requests` in any window."""

    requests: int
    window_s: float


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
