"""A person's pause of an account: its text, and how long it lasts while no run is at work. Pure."""

from poller.core.accounts import AccountState, Pause
from poller.core.timestamps import iso


def person_pause_detail(now: float) -> str:
    """Return, for people, since when a person pauses the account."""
    return f"since {iso(now)[:19]}Z"


def paused_since_s(state: AccountState, now: float) -> float:
    """Return for how long a person's pause went on since the state was noted. Whether another pause did is unknown."""
    if state.pause != Pause.PAUSED_BY_PERSON or state.active_at is None:
        return 0.0
    return max(0.0, now - state.active_at)
